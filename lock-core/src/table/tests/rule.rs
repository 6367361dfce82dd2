//! The one rule of weights: mutexes, readers and writers, semaphores, and the capacity that they share.

use super::{Scene, is_busy, is_granted, is_head, mutex, permits, reader, trying, writer};
use crate::backend::SessionId;
use crate::table::{Blocker, Outcome};

#[test]
fn a_mutex_has_one_holder() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(mutex(1, 1))));
    assert!(is_busy(&key.claim(trying(mutex(2, 1)))));
    assert!(is_head(&key.claim(mutex(3, 1))));
    assert_eq!(key.holders(), [1]);
    assert_eq!(key.waiters(), [3], "a claim that does not wait leaves nothing behind");
}

#[test]
fn two_tickets_of_one_session_are_two_contenders() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(mutex(1, 1))));
    assert!(is_busy(&key.claim(trying(mutex(1, 2)))));
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(reader(1, 1))));
    assert!(is_granted(&key.claim(reader(2, 1))));
    assert!(is_busy(&key.claim(trying(writer(3, 1)))));
    key.release(1, 1);
    assert!(is_busy(&key.claim(trying(writer(3, 2)))));
    key.release(2, 1);
    assert!(is_granted(&key.claim(trying(writer(3, 3)))));
    assert!(is_busy(&key.claim(trying(reader(1, 2)))));
}

#[test]
fn a_semaphore_grants_up_to_its_capacity() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(permits(1, 1, 2, 5))));
    assert!(is_granted(&key.claim(permits(2, 1, 2, 5))));
    assert!(is_busy(&key.claim(trying(permits(3, 1, 2, 5)))));
    assert!(is_granted(&key.claim(trying(permits(3, 2, 1, 5)))));
    assert!(is_busy(&key.claim(trying(permits(4, 1, 1, 5)))));
}

#[test]
fn weights_are_summed_without_overflow() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(writer(1, 1))));
    for session in 2..10 {
        key.claim(writer(session, 1));
    }
    assert!(is_busy(&key.claim(trying(writer(10, 1)))));
    assert!(is_busy(&key.claim(trying(reader(10, 2)))));
    assert_eq!(key.holders(), [1]);
}

#[test]
fn who_is_in_the_way_is_named() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    let blocker = Blocker { session: SessionId::from_u128(1), token: super::token(1_000), until: None };
    assert_eq!(key.claim(trying(mutex(2, 1))), Outcome::Busy { blocker: Some(blocker) });
    assert_eq!(key.claim(mutex(3, 1)), Outcome::Queued { head: true, blocker: Some(blocker) });
}

#[test]
fn another_capacity_is_refused_while_somebody_holds() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert_eq!(key.claim(reader(2, 1)), Outcome::CapacityMismatch { in_force: 1 });
    assert_eq!(key.claim(trying(permits(2, 2, 1, 3))), Outcome::CapacityMismatch { in_force: 1 });
    assert_eq!(key.waiters(), []);
}

#[test]
fn a_smaller_claim_under_another_capacity_is_refused_although_it_would_fit() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 1, 5));
    assert_eq!(key.claim(permits(2, 1, 1, 6)), Outcome::CapacityMismatch { in_force: 5 });
}

#[test]
fn an_idle_key_adopts_another_capacity() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.release(1, 1);
    assert_eq!(key.record.capacity(), None);
    assert!(is_granted(&key.claim(permits(2, 1, 2, 3))));
    assert_eq!(key.record.capacity(), Some(3));
}

#[test]
fn a_key_whose_every_holder_and_waiter_died_is_idle() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.kill(1);
    key.kill(2);
    assert!(is_granted(&key.claim(trying(permits(3, 1, 2, 3)))));
    assert_eq!(key.record.capacity(), Some(3));
    assert_eq!(key.waiters(), []);
}

#[test]
fn a_claim_on_a_free_key_asks_only_for_its_own_session() {
    let mut key = Scene::new();
    assert!(is_granted(&key.claim(mutex(1, 1))));
    assert_eq!(key.asked, [SessionId::from_u128(1)]);
}

#[test]
fn a_claim_that_fits_beside_the_holders_does_not_ask_whether_they_live() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    assert!(is_granted(&key.claim(reader(2, 1))));
    assert_eq!(key.asked, [SessionId::from_u128(2)]);
}
