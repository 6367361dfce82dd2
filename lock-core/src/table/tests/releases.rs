//! Claims that are sent again, releases, and copies that arrive after them.

use super::{
    DONE, GONE, Scene, for_at_least, for_exactly, granted, is_granted, is_head, mutex, reader, trying,
};
use crate::backend::{SessionId, Standing, Ticket};
use crate::table::Outcome;

#[test]
fn a_claim_that_is_sent_again_finds_its_grant() {
    let mut key = Scene::new();
    assert_eq!(key.claim(mutex(1, 1)), granted(1_000));
    assert_eq!(key.at(5_000).claim(mutex(1, 1)), granted(1_000));
    assert_eq!(key.holders(), [1]);
}

#[test]
fn a_waiter_that_was_granted_finds_its_grant() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.at(2_000).release(1, 1);
    assert_eq!(key.at(3_000).claim(mutex(2, 1)), granted(2_000));
}

#[test]
fn a_claim_under_a_session_that_is_over_is_refused() {
    let mut key = Scene::new();
    key.kill(1);
    assert_eq!(key.claim(mutex(1, 1)), Outcome::SessionEnded);
    assert!(key.record.is_idle());
}

#[test]
fn a_hold_of_a_session_that_is_over_is_not_confirmed() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.kill(1);
    assert_eq!(key.claim(mutex(1, 1)), Outcome::SessionEnded);
}

#[test]
fn a_released_key_can_be_taken_at_once() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert_eq!(key.release(1, 1), DONE);
    assert!(is_granted(&key.claim(trying(mutex(2, 1)))));
}

#[test]
fn an_uncontended_release_asks_for_no_other_session() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    key.claim(reader(2, 1));
    key.release(1, 1);
    assert!(key.asked.iter().all(|&session| session == SessionId::from_u128(1)), "{:?}", key.asked);
}

#[test]
fn a_second_release_finds_nothing_and_frees_nobody_else() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    assert_eq!(key.release(1, 1), DONE);
    assert_eq!(key.release(1, 1), GONE);
    assert_eq!(key.withdraw(1, 1), GONE);
    assert_eq!(key.holders(), [2]);
}

#[test]
fn nobody_releases_what_another_session_holds() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert_eq!(key.release(2, 1), GONE);
    assert_eq!(key.withdraw(2, 1), GONE);
    assert_eq!(key.release(1, 2), GONE);
    assert_eq!(key.holders(), [1]);
}

#[test]
fn a_release_after_the_end_of_the_session_finds_nothing() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.kill(1);
    key.kill(2);
    assert_eq!(key.release(1, 1), GONE);
    assert_eq!(key.release(2, 1), GONE);
}

#[test]
fn a_release_after_the_end_of_a_fixed_hold_finds_nothing() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    assert_eq!(key.at(1_500).release(1, 1), GONE);
}

#[test]
fn a_fixed_hold_can_be_released_early_and_also_after_its_session() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    key.kill(1);
    assert_eq!(key.release(1, 1), DONE);
    assert!(key.record.is_idle());
}

#[test]
fn a_delayed_copy_of_a_released_claim_is_withdrawn() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert_eq!(key.withdraw(1, 1), DONE);
    assert_eq!(key.claim(mutex(1, 1)), Outcome::Withdrawn);
    assert!(key.record.is_idle());
}

#[test]
fn a_delayed_copy_of_a_claim_that_left_the_queue_is_withdrawn() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    assert_eq!(key.withdraw(2, 1), DONE);
    assert_eq!(key.claim(mutex(2, 1)), Outcome::Withdrawn);
    assert_eq!(key.waiters(), []);
}

#[test]
fn a_claim_that_arrives_only_after_its_release_is_withdrawn() {
    let mut key = Scene::new();
    assert_eq!(key.withdraw(1, 1), GONE);
    assert_eq!(key.claim(mutex(1, 1)), Outcome::Withdrawn);
    assert!(is_granted(&key.claim(mutex(1, 2))), "another ticket is another claim");
    assert!(is_head(&key.claim(mutex(2, 1))), "another session's ticket is another claim");
}

#[test]
fn a_delayed_copy_is_withdrawn_while_its_hold_stays_for_its_least_time() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    key.release(1, 1);
    assert_eq!(key.claim(for_at_least(500, mutex(1, 1))), Outcome::Withdrawn);
}

#[test]
fn what_is_remembered_of_a_session_goes_with_it() {
    let mut key = Scene::new();
    key.withdraw(1, 1);
    key.withdraw(2, 1);
    key.kill(1);
    key.withdraw(3, 1);
    assert_eq!(key.record.sessions(), [2, 3].map(SessionId::from_u128));
    assert_eq!(key.claim(mutex(1, 1)), Outcome::SessionEnded, "which voids the copy as well");
}

#[test]
fn a_session_that_is_over_needs_not_be_remembered() {
    let mut key = Scene::new();
    key.kill(1);
    assert_eq!(key.withdraw(1, 1), GONE);
    assert_eq!(key.record.sessions(), []);
}

#[test]
fn a_claims_standing() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    let standing =
        |key: &Scene, session, ticket| key.record.standing(SessionId::from_u128(session), Ticket(ticket));
    assert!(matches!(standing(&key, 1, 1), Standing::Holds { token, .. } if token.get() == 1_000));
    assert!(matches!(standing(&key, 2, 1), Standing::Waits { .. }));
    assert!(matches!(standing(&key, 1, 2), Standing::Gone));
    assert!(key.record.is_head(SessionId::from_u128(2), Ticket(1)));
    key.release(1, 1);
    assert!(matches!(standing(&key, 1, 1), Standing::Gone));
}

#[test]
fn a_hold_that_was_given_back_early_is_gone_for_its_owner() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    key.release(1, 1);
    assert!(matches!(key.record.standing(SessionId::from_u128(1), Ticket(1)), Standing::Gone));
    assert_eq!(key.release(1, 1), GONE);
}
