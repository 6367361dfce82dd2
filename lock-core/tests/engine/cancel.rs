//! Futures that are dropped: nothing is left behind.

use std::future::{Future, poll_fn};
use std::task::Poll;

use lock_core::AcquireOptions;

use crate::support::{Fault, Operation, TTL, World, at_once, millis, rest, secs};

/// Polls a future this often, then drops it. `true` when it was ready before.
async fn drop_after(polls: usize, future: impl Future) -> bool {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test]
async fn an_acquire_dropped_at_any_poll_leaves_nothing() {
    for faults in [vec![], vec![Fault::AnsweredAfter(millis(5))], vec![Fault::AppliedAfter(millis(5))]] {
        for polls in 0..40 {
            let world = World::new();
            world.wire.fail(Operation::Open, faults.clone());
            world.wire.fail(Operation::Claim, faults.clone());
            let lock = world.client.mutex("k").unwrap();
            drop_after(polls, lock.acquire()).await;
            world.pass(millis(20)).await;
            assert!(world.state("k").await.is_idle(), "dropped after {polls} polls, {faults:?}");
            world.wire.heal();
            assert!(at_once(lock.try_acquire()).await.unwrap().unwrap().is_ok());
        }
    }
}

#[tokio::test]
async fn a_waiter_dropped_at_any_poll_leaves_the_queue() {
    for polls in 0..40 {
        let world = World::new();
        let lock = world.client.mutex("k").unwrap();
        let guard = lock.acquire().await.unwrap();
        drop_after(polls, lock.acquire()).await;
        rest().await;
        let state = world.state("k").await;
        assert!(state.queue.is_empty() && state.holders.len() == 1, "dropped after {polls} polls");
        guard.release().await.unwrap();
        assert!(world.state("k").await.is_idle());
    }
}

#[tokio::test]
async fn a_grant_that_arrives_after_its_caller_has_gone_is_undone() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.fail(Operation::Claim, [Fault::AppliedAfter(secs(2))]);
    let lock = world.client.mutex("k").unwrap();
    drop_after(3, lock.acquire()).await;
    world.pass(millis(1_999)).await;
    assert!(world.state("k").await.is_idle());
    world.pass(millis(1)).await;
    assert!(world.state("k").await.is_idle(), "released as soon as the attempt had settled");
    assert_eq!(world.wire.calls(Operation::Release), 1);
}

#[tokio::test]
async fn a_withdrawal_of_unknown_outcome_forbids_every_late_copy() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.fail(Operation::Claim, [Fault::Silence]);
    let lock = world.client.mutex("k").unwrap();
    drop_after(3, lock.acquire()).await;
    world.pass(secs(6)).await;
    let (ticket, certainty) = world.wire.releases()[0];
    assert_eq!(certainty, lock_core::Certainty::MaybeInFlight);
    let (_, session) = world.wire.sessions()[0].clone();
    let late = lock_core::Claim::new(
        lock_core::LockKey::new("k").unwrap(),
        ticket,
        lock_core::Mode::Exclusive,
        lock_core::Permit::MUTEX,
    );
    assert!(session.claim(&late).await.is_err(), "a delayed copy is never granted");
}

#[tokio::test]
async fn a_guard_dropped_outside_any_runtime_releases() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    rest().await;
    assert!(world.state("k").await.is_idle());
}

#[test]
fn a_guard_dropped_after_its_runtime_does_not_panic_and_ends_with_its_lease() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, guard) = runtime.block_on(async {
        let world = World::new();
        let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
        (world, guard)
    });
    let ending = guard.ending();
    drop(runtime);
    assert!(guard.state().is_held());
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = world.clock.clone();
    let end = other.block_on(async move {
        let waiting = tokio::spawn(ending);
        rest().await;
        clock.advance(TTL);
        waiting.await.unwrap()
    });
    assert_eq!(end, lock_core::End::Lost(lock_core::Reason::Expired));
    drop(guard);
    let error = other.block_on(world.client.mutex("other").unwrap().try_acquire()).unwrap_err();
    assert!(
        matches!(error.kind(), lock_core::ErrorKind::ShutDown | lock_core::ErrorKind::SessionLost(_)),
        "{error}"
    );
}

#[tokio::test]
async fn a_panic_under_the_lock_releases_it() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let worker = tokio::spawn({
        let lock = lock.clone();
        async move {
            let _guard = lock.acquire().await.unwrap();
            panic!("on purpose");
        }
    });
    assert!(worker.await.is_err());
    rest().await;
    assert!(world.state("k").await.is_idle());
}

#[tokio::test]
async fn a_guard_keeps_the_engine_alive_and_the_last_one_closes_the_session() {
    let mut world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    // Another in its place: this one is gone.
    world.client = world.neighbour();
    world.pass(TTL * 3).await;
    assert!(guard.state().is_held(), "renewed without its client");
    drop(guard);
    rest().await;
    assert!(world.state("k").await.is_idle());
    let renewals = world.wire.calls(Operation::Renew);
    world.pass(TTL).await;
    assert_eq!(world.wire.calls(Operation::Renew), renewals, "nobody renews any more");
}

/// Nobody ever held it.
#[tokio::test]
async fn an_acquire_that_was_dropped_does_not_keep_the_key_for_hold_at_least() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.fail(Operation::Claim, [Fault::AnsweredAfter(secs(1))]);
    let lock = world.client.mutex("nightly").unwrap();
    let options = AcquireOptions::new().hold_at_least(secs(3600));
    assert!(at_once(lock.acquire_with(&options)).await.is_none(), "its caller gives up before the answer");
    world.pass(secs(60)).await;
    assert!(world.state("nightly").await.is_idle(), "nobody ran: {:?}", world.state("nightly").await.holders);
}
