//! The matrix is whole: a row for each scenario, an answer from each store, and a reason for whatever is not promised.

use std::collections::{BTreeMap, BTreeSet};

use lock_conformance::{Promise, Promises, rows, scenarios};

#[test]
fn every_scenario_has_a_row_of_its_name_and_every_row_a_scenario() {
    let played: BTreeMap<u32, String> = scenarios().collect();
    let listed: BTreeMap<u32, String> =
        rows().unwrap().into_iter().map(|row| (row.number, row.name)).collect();
    assert_eq!(scenarios().count(), played.len(), "two scenarios have one number");
    assert_eq!(listed, played);
}

#[test]
fn every_store_answers_for_every_scenario() {
    let rows = rows().unwrap();
    let stores: BTreeSet<_> = rows.iter().flat_map(|row| row.stores.keys().cloned()).collect();
    assert!(stores.contains("memory") && stores.contains("file"));
    for row in &rows {
        let answers: BTreeSet<_> = row.stores.keys().cloned().collect();
        assert_eq!(answers, stores, "scenario {} ({})", row.number, row.name);
    }
    for store in stores {
        Promises::of(&store).unwrap();
    }
}

#[test]
fn whatever_is_not_promised_has_a_reason() {
    for row in rows().unwrap() {
        for (store, promise) in row.stores {
            let reason = match &promise {
                Promise::Weaker(reason) | Promise::NotApplicable(reason) => reason.as_str(),
                _ => continue,
            };
            assert!(
                reason.split(' ').count() >= 3,
                "scenario {}, {store}: {reason:?} is no reason",
                row.number
            );
        }
    }
}

#[test]
fn names_are_sentences_in_a_group() {
    for (number, name) in scenarios() {
        let (group, sentence) = name.split_once("::").unwrap();
        assert!(!group.is_empty() && sentence.contains('_'), "{number}: {name}");
    }
}
