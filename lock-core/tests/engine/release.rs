//! Giving back.

use lock_core::{AcquireOptions, Certainty, Effect, End, ErrorKind, HoldState, Reason};

use crate::support::{Fault, Operation, TTL, World, at_once, rest, secs};

#[tokio::test]
async fn a_release_is_one_call_and_says_so() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let held = guard.held();
    assert_eq!(guard.release().await.unwrap(), End::Released);
    assert_eq!(held.state(), HoldState::Ended(End::Released));
    assert_eq!(world.wire.releases().len(), 1);
    assert_eq!(world.wire.releases()[0].1, Certainty::Settled);
    rest().await;
    assert_eq!(world.wire.calls(Operation::Release), 1, "the guard's drop has nothing left to do");
}

#[tokio::test]
async fn a_release_after_a_loss_says_that_and_frees_nobody_else() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.always(Operation::Renew, Fault::Silence);
    world.pass(TTL).await;
    let successor = world.neighbour().mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    assert_eq!(guard.release().await.unwrap(), End::Lost(Reason::Expired));
    rest().await;
    assert_eq!(world.state("k").await.holders[0].token, successor.token());
}

#[tokio::test]
async fn a_hold_that_the_store_forgot_is_said_to_be_lost_by_its_release() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let (_, session) = world.wire.sessions()[0].clone();
    session.release(&guard.grant().claim, Certainty::Settled).await.unwrap();
    assert_eq!(guard.release().await.unwrap(), End::Lost(Reason::Forgotten));
}

#[tokio::test]
async fn without_an_answer_the_caller_hears_so_and_the_engine_goes_on() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.fail(Operation::Release, [Fault::Silence, Fault::Refused]);
    let release = tokio::spawn(guard.release());
    world.pass(secs(5)).await;
    let error = release.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::TimedOut, Effect::Unknown));
    world.pass(secs(1)).await;
    assert!(world.state("k").await.is_idle());
}

#[tokio::test]
async fn a_dropped_release_goes_on() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.fail(Operation::Release, [Fault::AppliedAfter(secs(1))]);
    assert!(at_once(guard.release()).await.is_none());
    assert_eq!(world.state("k").await.holders.len(), 1);
    world.pass(secs(1)).await;
    assert!(world.state("k").await.is_idle());
    assert_eq!(world.wire.calls(Operation::Release), 1, "the same call, not another");
}

#[tokio::test]
async fn hold_at_least_keeps_the_key_after_an_early_release() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().hold_at_least(secs(60));
    lock.acquire_with(&options).await.unwrap().release().await.unwrap();
    let busy = lock.try_acquire().await.unwrap().unwrap_err();
    assert_eq!(busy.remaining, Some(secs(60)));
    world.pass(secs(60)).await;
    assert!(lock.try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_detached_hold_outlives_its_client_and_ends_by_key_and_token() {
    let world = World::new();
    let held =
        world.client.mutex("k").unwrap().acquire_detached(secs(3600), &AcquireOptions::new()).await.unwrap();
    assert!(world.client.shutdown(secs(1)).await.is_empty());
    let other = world.neighbour();
    let wrong = lock_core::FencingToken::new(held.token.get() + 1).unwrap();
    assert!(!other.release_detached("k", wrong).await.unwrap());
    world.pass(secs(1800)).await;
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    assert!(other.release_detached("k", held.token).await.unwrap());
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}

/// Each would stay in the record for as long as the session lives.
#[tokio::test]
async fn a_hold_that_was_sent_once_and_answered_leaves_no_tombstone() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    for _ in 0..50 {
        let _g = lock.acquire_with(&AcquireOptions::new().hold_at_most(secs(1))).await.unwrap();
        world.pass(secs(1)).await;
        assert!(world.state("k").await.is_idle());
    }
    let in_flight = world.wire.releases().iter().filter(|(_, c)| *c == Certainty::MaybeInFlight).count();
    assert_eq!(in_flight, 0, "each is a tombstone that stays as long as the session lives");
}
