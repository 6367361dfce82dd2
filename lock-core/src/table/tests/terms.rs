//! For how long a grant holds: with its session, at least for a while, or until a fixed instant.

use super::{DONE, Scene, for_at_least, for_exactly, granted, is_busy, is_granted, mutex, trying};
use crate::backend::SessionId;
use crate::table::{Blocker, Holding, Outcome};

#[test]
fn a_hold_ends_with_its_session() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert!(is_busy(&key.at(u64::MAX / 4).claim(trying(mutex(2, 1)))));
    key.kill(1);
    key.now = 2_000;
    assert!(is_granted(&key.claim(trying(mutex(2, 2)))));
}

#[test]
fn a_key_that_is_released_early_stays_taken_for_its_least_time() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    assert_eq!(key.at(1_100).release(1, 1), DONE);
    let until = Some(1_500);
    let blocker = Blocker { session: SessionId::from_u128(1), token: super::token(1_000), until };
    assert_eq!(
        key.at(1_499).claim(trying(mutex(2, 1))),
        Outcome::Busy { blocker: Some(blocker) },
        "also the releaser's own session has to wait"
    );
    assert!(is_busy(&key.claim(trying(mutex(1, 2)))));
    assert_eq!(key.at(1_500).claim(trying(mutex(2, 2))), granted(1_500));
}

#[test]
fn a_key_whose_holder_died_stays_taken_for_its_least_time() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    key.kill(1);
    assert!(is_busy(&key.at(1_499).claim(trying(mutex(2, 1)))));
    assert_eq!(key.record.holders()[0].holding, Holding::Fixed { until: 1_500, returned: true });
    assert_eq!(key.at(1_500).claim(trying(mutex(2, 2))), granted(1_500));
}

#[test]
fn a_release_after_its_least_time_frees_the_key_at_once() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    key.at(1_500).release(1, 1);
    assert!(key.record.is_idle());
}

#[test]
fn a_waiters_least_time_counts_from_its_grant() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(for_at_least(500, mutex(2, 1)));
    key.at(2_000).release(1, 1);
    assert_eq!(key.record.holders()[0].holding, Holding::Session { at_least_until: 2_500 });
}

#[test]
fn a_fixed_hold_outlives_its_session() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    key.kill(1);
    assert!(is_busy(&key.at(1_499).claim(trying(mutex(2, 1)))));
    assert_eq!(key.at(1_500).claim(trying(mutex(2, 2))), granted(1_500));
}

#[test]
fn a_fixed_hold_ends_although_its_session_lives() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    assert!(is_busy(&key.at(1_499).claim(trying(mutex(2, 1)))));
    assert!(is_granted(&key.at(1_500).claim(trying(mutex(2, 2)))));
}

#[test]
fn a_fixed_hold_that_is_over_is_not_confirmed() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    assert_eq!(key.at(1_499).claim(for_exactly(500, mutex(1, 1))), granted(1_000));
    assert_eq!(key.at(1_500).claim(for_exactly(500, mutex(1, 1))), Outcome::Withdrawn);
}

#[test]
fn a_fraction_of_a_microsecond_is_rounded_up() {
    let mut key = Scene::new();
    let mut request = mutex(1, 1);
    request.term = crate::backend::Term::Fixed(std::time::Duration::from_nanos(1));
    key.claim(request);
    assert_eq!(key.record.holders()[0].holding.fixed_until(), Some(1_001));
}

#[test]
fn the_longest_term_does_not_overflow() {
    let mut key = Scene::new();
    let mut request = mutex(1, 1);
    request.term = crate::backend::Term::Fixed(std::time::Duration::MAX);
    key.claim(request);
    assert_eq!(key.record.holders()[0].holding.fixed_until(), Some(u64::MAX));
}

#[test]
fn a_clock_that_goes_back_extends_no_hold() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    key.claim(mutex(2, 1));
    key.at(1_500).settle();
    assert_eq!(key.holders(), [2]);
    // The record has seen 1,500: what it grants next is counted from there.
    key.at(10).release(2, 1);
    key.claim(for_exactly(500, mutex(3, 1)));
    assert_eq!(key.record.holders()[0].holding.fixed_until(), Some(2_000));
}
