//! Losing a lock: by time, by the store's word, by force; told in time, and for good.

use lock_core::{
    AcquireOptions, Certainty, Claim, ClaimRef, Clock, End, Event, HoldState, LockKey, Mode, Permit, Reason,
    Ticket,
};

use crate::support::{Fault, Operation, TTL, World, at_once, millis, rest, secs};

#[tokio::test]
async fn without_renewals_it_ends_before_the_store_can_grant_it_again() {
    let world = World::new();
    let start = world.clock.boot();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.always(Operation::Renew, Fault::Silence);
    world.wire.always(Operation::Close, Fault::Silence);
    let lost = tokio::spawn(guard.ending());
    world.pass(TTL - millis(101)).await;
    assert!(matches!(guard.state(), HoldState::AtRisk { until } if until == start + TTL - millis(100)));
    world.pass(millis(1)).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)), "1 % before the store's expiry");
    assert_eq!(at_once(lost).await.unwrap().unwrap(), End::Lost(Reason::Expired));
    assert!(world.neighbour().mutex("k").unwrap().try_acquire().await.unwrap().is_err());
}

#[tokio::test]
async fn a_slow_reply_shortens_validity() {
    let world = World::new();
    let start = world.clock.boot();
    world.wire.fail(Operation::Open, [Fault::AnsweredAfter(secs(4))]);
    // It would make it longer: one is due by then.
    world.wire.always(Operation::Renew, Fault::Silence);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(secs(4)).await;
    let guard = waiter.await.unwrap().unwrap();
    let HoldState::Held { until } = guard.state() else { panic!("{:?}", guard.state()) };
    assert_eq!(until, start + TTL - millis(100));
}

#[tokio::test]
async fn at_risk_and_back() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let held = guard.held();
    let seen = tokio::spawn(async move {
        let first = held.changed(held.state()).await;
        let second = held.changed(first).await;
        (first, second)
    });
    world.wire.always(Operation::Renew, Fault::Refused);
    world.pass(secs(7)).await;
    world.wire.heal();
    world.pass(secs(2)).await;
    let (first, second) = at_once(seen).await.expect("both have happened").unwrap();
    assert!(matches!(first, HoldState::AtRisk { .. }) && matches!(second, HoldState::Held { .. }));
    assert!(guard.state().is_held());
}

#[tokio::test]
async fn a_machine_that_slept_sees_the_loss_at_its_next_look() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.clock.suspend(TTL);
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
    assert_eq!(guard.run(async {}).await, Err(lock_core::Lost(Reason::Expired)));
}

#[tokio::test]
async fn a_late_acknowledgement_changes_nothing_and_the_session_never_comes_back() {
    let world = World::with(|builder| builder.call_timeout(secs(60)));
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.pass(secs(3)).await;
    world.wire.always(Operation::Renew, Fault::AnsweredAfter(TTL));
    world.pass(TTL * 2).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
    world.wire.heal();
    world.pass(TTL).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
    let old = guard.grant().session;
    let again = world.client.mutex("k").unwrap().acquire().await.unwrap();
    assert_ne!(again.grant().session, old);
}

#[tokio::test]
async fn a_grant_that_the_store_forgot_is_told_within_one_ttl_though_the_session_renews() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.pass(secs(5)).await;
    let (_, session) = world.wire.sessions()[0].clone();
    session.release(&guard.grant().claim, Certainty::Settled).await.unwrap();
    world.pass(TTL / 3 * 2).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Forgotten)));
    assert!(world.client.mutex("other").unwrap().try_acquire().await.unwrap().is_ok(), "the session lives");
}

#[tokio::test]
async fn force_release_tells_the_holder_and_the_next_token_rises() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let other = world.neighbour();
    assert_eq!(other.force_release("k", None).await.unwrap(), 1);
    assert_eq!(at_once(guard.lost()).await, Some(Reason::Revoked));
    let next = other.mutex("k").unwrap().acquire().await.unwrap();
    assert!(next.token() > guard.token());
    assert_eq!(other.force_release("k", Some(guard.token())).await.unwrap(), 0, "another's token");
}

#[tokio::test]
async fn a_loss_that_happened_before_anybody_listened_is_still_reported() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.neighbour().force_release("k", None).await.unwrap();
    rest().await;
    assert_eq!(at_once(guard.ending()).await, Some(End::Lost(Reason::Revoked)));
    assert_eq!(guard.release().await.unwrap(), End::Lost(Reason::Revoked));
}

#[tokio::test]
async fn the_store_ends_the_session() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.send(&Event::Lost(Reason::SessionEnded));
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::SessionEnded)));
}

#[tokio::test]
async fn hold_at_most_ends_a_hold_that_is_still_renewed() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire_with(&AcquireOptions::new().hold_at_most(secs(25))).await.unwrap();
    std::mem::forget(lock.clone());
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(secs(25) - millis(1)).await;
    assert!(guard.state().is_held() && !waiter.is_finished());
    world.pass(millis(1)).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::HeldTooLong)));
    assert!(at_once(waiter).await.is_some(), "and it is released");
}

#[tokio::test]
async fn a_leaked_guard_with_hold_at_most_is_released_at_that_age() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    std::mem::forget(lock.acquire_with(&AcquireOptions::new().hold_at_most(secs(60))).await.unwrap());
    world.pass(secs(60)).await;
    assert!(lock.try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_grant_that_nobody_owns_is_freed_as_soon_as_somebody_wants_it() {
    let world = World::new();
    world.client.open().await.unwrap();
    let (_, session) = world.wire.sessions()[0].clone();
    let key = LockKey::new("k").unwrap();
    let orphan = Claim::new(key, Ticket(9999), Mode::Exclusive, Permit::MUTEX);
    session.claim(&orphan).await.unwrap();
    let lock = world.neighbour().mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    assert!(at_once(waiter).await.is_some());
}

/// No event, no renewal and no head tells the waiter of anything: it asks by itself in the end.
#[tokio::test]
async fn a_place_that_nobody_owns_before_a_grant_that_nobody_owns_blocks_nobody_for_ever() {
    let world = World::new();
    world.client.open().await.unwrap();
    let first = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let (_, session) = world.wire.sessions()[0].clone();
    let orphan = |ticket| {
        let key = LockKey::new("k").unwrap();
        let mode = Mode::Exclusive;
        Claim::new(key, Ticket(ticket), mode, Permit::MUTEX).waiting(true)
    };
    // Their wake-ups are lost, so that nothing is found out before the waiter asks.
    world.wire.deafen();
    session.claim(&orphan(9998)).await.unwrap();
    session.claim(&orphan(9999)).await.unwrap();
    first.release().await.unwrap();
    let lock = world.neighbour().mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    world.wire.heal();
    world.pass(TTL * 8).await;
    assert!(at_once(waiter).await.is_some(), "{:?}", world.state("k").await);
}

#[tokio::test]
async fn a_hold_that_is_wanted_before_its_owner_has_looked_at_the_grant_knows_it() {
    let world = World::new();
    let first = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.client.mutex("k").unwrap();
    let mut second = Box::pin(lock.acquire());
    assert!(at_once(second.as_mut()).await.is_none());
    // Nobody polls it while it is granted and somebody queues behind it.
    first.release().await.unwrap();
    let other = world.neighbour().mutex("k").unwrap();
    let _third = tokio::spawn(async move { other.acquire().await });
    rest().await;
    assert!(second.await.unwrap().is_wanted());
}

#[tokio::test]
async fn a_wanted_hold_is_told_and_kept() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    assert!(!guard.is_wanted());
    let lock = world.neighbour().mutex("k").unwrap();
    let _waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    assert!(guard.is_wanted() && guard.state().is_held());
}

#[tokio::test]
async fn a_grant_that_nobody_owns_is_freed_for_whoever_only_tries() {
    let world = World::new();
    world.client.open().await.unwrap();
    let (_, session) = world.wire.sessions()[0].clone();
    let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(9999), Mode::Exclusive, Permit::MUTEX);
    session.claim(&claim).await.unwrap();
    let other = world.neighbour();
    let mut busy = 0;
    for _ in 0..100 {
        if other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok() {
            break;
        }
        busy += 1;
        world.pass(TTL).await;
    }
    assert!(busy < 10, "busy {busy} times in {busy} TTLs");
}

#[tokio::test]
async fn a_grant_that_nobody_owns_is_released_once_however_often_it_is_wanted() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.always(Operation::Release, Fault::Silence);
    let wanted = Event::Wanted(ClaimRef::new(LockKey::new("k").unwrap(), Ticket(9999)));
    for _ in 0..100 {
        world.wire.send(&wanted);
    }
    rest().await;
    assert_eq!(world.wire.calls(Operation::Release), 1);
}
