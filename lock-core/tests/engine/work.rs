//! Work under a lock: `lock.run` and `guard.run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_core::{AcquireOptions, Lost, Ran, Reason, Wait};

use crate::support::{Fault, Operation, TTL, World, at_once, millis, rest, secs};

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn it_runs_and_has_released_when_it_returns() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let ran = lock.run(|held| async move { held.token() }).await.unwrap();
    assert!(matches!(ran, Ran::Done(token) if token.get() > 0));
    assert!(world.state("k").await.is_idle());
}

#[tokio::test]
async fn it_makes_one_attempt_unless_a_wait_is_set() {
    let world = World::with(|builder| builder.defaults(AcquireOptions::new()));
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let ran = at_once(lock.run(|_| async { 1 })).await.unwrap().unwrap();
    assert!(matches!(ran, Ran::Busy(busy) if busy.holder.is_some()));
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(1)));
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.run_with(&options, |_| async { 2 }).await }
    });
    rest().await;
    guard.release().await.unwrap();
    assert_eq!(at_once(waiting).await.unwrap().unwrap().unwrap(), Ran::Done(2));
}

#[tokio::test]
async fn patience_that_is_over_is_busy_and_no_error() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let _guard = lock.acquire().await.unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(1)));
    let waiting = tokio::spawn(async move { lock.run_with(&options, |_| async {}).await });
    world.pass(secs(1)).await;
    assert!(matches!(waiting.await.unwrap().unwrap(), Ran::Busy(_)));
}

#[tokio::test]
async fn work_is_dropped_before_the_lease_can_end() {
    let world = World::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let lock = world.client.mutex("k").unwrap();
    let working = tokio::spawn({
        let witness = Dropped(dropped.clone());
        async move {
            lock.run(|_| async move {
                let _witness = witness;
                std::future::pending::<()>().await;
            })
            .await
        }
    });
    rest().await;
    world.wire.always(Operation::Renew, Fault::Silence);
    world.wire.always(Operation::Close, Fault::Silence);
    world.pass(TTL - millis(101)).await;
    assert!(!dropped.load(Ordering::SeqCst));
    world.pass(millis(1)).await;
    assert!(dropped.load(Ordering::SeqCst), "while the store still keeps the lock");
    assert!(world.neighbour().mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    assert_eq!(working.await.unwrap().unwrap(), Ran::Lost(Reason::Expired));
}

#[tokio::test]
async fn a_result_that_is_ready_in_the_poll_that_sees_the_loss_is_not_taken() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let clock = world.clock.clone();
    let result = guard.run(async move { clock.suspend(TTL) }).await;
    assert_eq!(result, Err(Lost(Reason::Expired)));
}

#[tokio::test]
async fn a_blocked_thread_does_not_go_on_past_the_lease() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let reached = Arc::new(AtomicBool::new(false));
    let (clock, witness) = (world.clock.clone(), reached.clone());
    let result = guard
        .run(async move {
            clock.suspend(TTL);
            tokio::task::yield_now().await;
            witness.store(true, Ordering::SeqCst);
        })
        .await;
    assert_eq!(result, Err(Lost(Reason::Expired)));
    assert!(!reached.load(Ordering::SeqCst), "looked at before the next poll");
}

#[tokio::test]
async fn dropping_the_run_drops_the_work_and_releases() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    assert!(at_once(lock.run(|_| std::future::pending::<()>())).await.is_none());
    rest().await;
    assert!(world.state("k").await.is_idle());
}

#[tokio::test]
async fn work_that_is_done_is_not_taken_away_by_a_release_without_an_answer() {
    let world = World::new();
    world.wire.always(Operation::Release, Fault::Silence);
    let lock = world.client.mutex("k").unwrap();
    let running = tokio::spawn(async move { lock.run(|_| async { 7 }).await });
    world.pass(secs(5)).await;
    assert_eq!(running.await.unwrap().unwrap(), Ran::Done(7));
}
