//! Ends by force, the end of what has died, and the end of the record itself.

use super::{
    DONE, GONE, Scene, for_at_least, for_exactly, is_granted, mutex, permits, reader, token, trying, writer,
};
use crate::backend::SessionId;
use crate::hold::Reason;
use crate::table::{Input, News, Outcome};

const REVOKED: News = News::Revoked(Reason::Revoked);

#[test]
fn all_holds_are_ended_by_force() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    key.claim(for_exactly(500, reader(2, 1)));
    assert_eq!(key.force_release(None), Outcome::ForceReleased(2));
    assert_eq!(key.told(|news| news == REVOKED), [1, 2]);
    assert!(key.record.is_idle());
    assert_eq!(key.release(1, 1), GONE);
}

#[test]
fn one_hold_is_ended_by_force() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 1, 3));
    key.claim(permits(2, 1, 1, 3));
    key.claim(permits(3, 1, 1, 3));
    assert_eq!(key.force_release(Some(token(1_001))), Outcome::ForceReleased(1));
    assert_eq!(key.told(|news| news == REVOKED), [2]);
    assert_eq!(key.holders(), [1, 3]);
}

#[test]
fn a_token_that_nobody_holds_ends_nothing() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert_eq!(key.force_release(Some(token(999))), Outcome::ForceReleased(0));
    assert_eq!(key.holders(), [1]);
}

#[test]
fn waiters_stay_when_the_holder_is_ended_by_force() {
    let mut key = Scene::new();
    for session in 1..4 {
        key.claim(mutex(session, 1));
    }
    key.force_release(None);
    assert_eq!(key.told_of_grants(), [2]);
    assert_eq!(key.told(|news| news == News::Recheck), [3]);
    assert_eq!(key.record.holders()[0].token, token(1_001), "tokens go on to rise");
}

#[test]
fn force_also_ends_what_only_stays_for_its_least_time() {
    let mut key = Scene::new();
    key.claim(for_at_least(500, mutex(1, 1)));
    key.release(1, 1);
    assert_eq!(key.force_release(None), Outcome::ForceReleased(1));
    assert!(is_granted(&key.claim(trying(mutex(2, 1)))));
}

#[test]
fn a_hold_that_was_over_is_not_counted_as_ended_by_force() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    key.claim(for_exactly(500, reader(2, 1)));
    key.kill(1);
    assert_eq!(key.at(1_500).force_release(None), Outcome::ForceReleased(0));
    assert_eq!(key.notices, []);
    assert!(key.record.is_idle());
}

#[test]
fn settling_removes_whatever_is_over_and_grants_to_the_next() {
    let mut key = Scene::new();
    key.claim(writer(1, 1));
    key.claim(writer(2, 1));
    key.claim(reader(3, 1));
    key.claim(writer(4, 1));
    key.withdraw(4, 9);
    for session in [1, 2, 4] {
        key.kill(session);
    }
    key.settle();
    assert_eq!((key.holders(), key.waiters()), (vec![3], vec![]));
    assert_eq!(key.record.sessions(), [SessionId::from_u128(3)]);
}

#[test]
fn settling_also_removes_the_dead_behind_a_waiter_that_lives() {
    let mut key = Scene::new();
    for session in 1..5 {
        key.claim(mutex(session, 1));
    }
    key.kill(3);
    key.settle();
    assert_eq!(key.waiters(), [2, 4]);
}

#[test]
fn settling_a_key_where_all_is_well_changes_nothing() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    let before = key.record.clone();
    key.at(9_000).settle();
    assert_eq!(key.record, before);
    assert_eq!(key.notices, []);
}

#[test]
fn an_idle_record_may_go_once_its_fence_is_behind_the_clock() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    let later = Input { now: 2_000, proposed_token: 2_000 };
    assert!(!key.record.is_disposable(later), "somebody holds it");
    key.claim(mutex(2, 1));
    assert_eq!(key.release(1, 1), DONE);
    assert_eq!(key.release(2, 1), DONE);
    assert_eq!(key.record.fence(), 1_001);
    assert!(key.record.is_disposable(later));
    assert!(
        !key.record.is_disposable(Input { now: 2_000, proposed_token: 1_001 }),
        "a token would come back"
    );
    assert!(!key.record.is_disposable(Input { now: 999, proposed_token: 2_000 }), "the clock went back");
}

#[test]
fn a_record_that_remembers_a_withdrawn_claim_may_not_go() {
    let mut key = Scene::new();
    key.withdraw(1, 1);
    let later = Input { now: 2_000, proposed_token: 2_000 };
    assert!(!key.record.is_disposable(later));
    key.kill(1);
    key.settle();
    assert!(key.record.is_disposable(later));
}
