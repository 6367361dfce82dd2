//! Tokens: they rise, through a clock that goes back and up to the largest, and never wrap.

use super::{Scene, granted, is_granted, is_head, mutex, permits, reader, trying};
use crate::error::ErrorKind;
use crate::table::{KeyRecord, News, Outcome};

const LARGEST: u64 = (1 << 53) - 1;

#[test]
fn a_token_is_what_the_store_proposes_if_that_is_larger() {
    let mut key = Scene::new();
    assert_eq!(key.claim(reader(1, 1)), granted(1_000));
    assert_eq!(key.at(7_000).claim(reader(2, 1)), granted(7_000));
}

#[test]
fn two_grants_at_one_instant_have_two_tokens() {
    let mut key = Scene::new();
    assert_eq!(key.claim(reader(1, 1)), granted(1_000));
    assert_eq!(key.claim(reader(2, 1)), granted(1_001));
}

#[test]
fn tokens_rise_while_the_clock_goes_back() {
    let mut key = Scene::new();
    assert_eq!(key.claim(mutex(1, 1)), granted(1_000));
    key.at(5).release(1, 1);
    assert_eq!(key.claim(mutex(2, 1)), granted(1_001));
}

#[test]
fn waiters_that_are_granted_together_have_tokens_in_their_order() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 2, 2));
    key.claim(permits(2, 1, 1, 2));
    key.claim(permits(3, 1, 1, 2));
    key.at(4_000).release(1, 1);
    let tokens: Vec<_> = key.record.holders().iter().map(|h| (h.session.as_u128(), h.token.get())).collect();
    assert_eq!(tokens, [(2, 4_000), (3, 4_001)]);
}

#[test]
fn a_record_goes_on_above_a_fence_that_was_kept_elsewhere() {
    let mut key = Scene::of(KeyRecord::with_fence(8_000));
    assert_eq!(key.claim(mutex(1, 1)), granted(8_001));
}

#[test]
fn after_the_largest_token_there_is_an_error_and_no_wrap() {
    let mut key = Scene::of(KeyRecord::with_fence(LARGEST - 1));
    assert_eq!(key.claim(mutex(1, 1)), granted(LARGEST));
    key.release(1, 1);
    let outcome = key.claim(mutex(2, 1));
    assert_eq!(outcome, Outcome::FenceExhausted);
    assert!(key.record.is_idle());
    assert_eq!(key.record.fence(), LARGEST);
    assert_eq!(*outcome.into_error().kind(), ErrorKind::FenceExhausted);
}

#[test]
fn a_proposal_above_the_largest_token_is_an_error_too() {
    let mut key = Scene::new();
    assert_eq!(key.at(LARGEST + 1).claim(trying(mutex(1, 1))), Outcome::FenceExhausted);
    assert!(is_granted(&key.at(LARGEST).claim(mutex(1, 1))));
}

#[test]
fn a_waiter_without_a_token_learns_it_from_its_own_claim() {
    let mut key = Scene::of(KeyRecord::with_fence(LARGEST - 1));
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.claim(mutex(3, 1));
    key.release(1, 1);
    assert_eq!(key.told_of_grants(), []);
    assert_eq!(key.told(|news| news == News::Recheck), [2]);
    assert_eq!(key.claim(mutex(2, 1)), Outcome::FenceExhausted);
    assert_eq!(key.told(|news| news == News::Recheck), [3], "now the next can learn it");
    assert_eq!(key.claim(mutex(3, 1)), Outcome::FenceExhausted);
    assert!(key.record.is_idle());
}

#[test]
fn a_wider_waiter_behind_one_without_a_token_is_told_that_it_is_next() {
    let mut key = Scene::of(KeyRecord::with_fence(LARGEST - 2));
    key.claim(permits(1, 1, 1, 3));
    key.claim(permits(2, 1, 2, 3));
    key.claim(permits(3, 1, 2, 3));
    key.claim(permits(4, 1, 3, 3));
    key.release(2, 1);
    assert_eq!(key.claim(permits(3, 1, 2, 3)), Outcome::FenceExhausted);
    assert_eq!(key.told(|news| news == News::Recheck), [4]);
    assert!(is_head(&key.claim(permits(4, 1, 3, 3))));
}
