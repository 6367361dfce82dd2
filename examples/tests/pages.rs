//! What the README and docs/choosing-ttl-wait-grace.md say, held against the library in virtual time.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fencepost::backend::VirtualClock;
use fencepost::memory::MemoryBackend;
use fencepost::{
    AcquireOptions, End, ErrorKind, HoldState, LockClient, Lost, Ran, Reason, RetryPolicy, Wait,
};

struct World {
    clock: VirtualClock,
    one: LockClient,
    other: LockClient,
}

impl World {
    fn new() -> World {
        let clock = VirtualClock::new();
        let store = MemoryBackend::with_clock(Arc::new(clock.clone()));
        let client = |name: &str| {
            let builder = LockClient::builder(store.clone()).clock(Arc::new(clock.clone()));
            builder.name(name).retry(RetryPolicy::none()).build().unwrap()
        };
        World { one: client("one"), other: client("other"), clock: clock.clone() }
    }

    /// Lets time pass in steps that leave the heartbeats room to beat.
    async fn live(&self, time: Duration) {
        let step = Duration::from_millis(100);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.advance(step);
            settle().await;
        }
    }
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[tokio::test]
async fn a_ttl_of_ten_seconds_has_the_numbers_of_its_table() {
    let world = World::new();
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    // Nothing is awaited from here on: no renewal can be sent.
    world.clock.advance(millis(6_660));
    assert!(matches!(guard.state(), HoldState::Held { .. }));
    world.clock.advance(millis(10));
    assert!(matches!(guard.state(), HoldState::AtRisk { .. }), "at 6.67 s");
    world.clock.advance(millis(3_220));
    assert!(guard.state().is_held(), "at 9.89 s");
    world.clock.advance(millis(10));
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)), "at 9.9 s");
}

#[tokio::test]
async fn a_job_of_ten_minutes_under_a_ttl_of_ten_seconds_keeps_its_lock() {
    let world = World::new();
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    world.live(seconds(600)).await;
    assert!(matches!(guard.state(), HoldState::Held { .. }));
    assert!(world.other.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
}

#[tokio::test]
async fn hold_at_most_ends_what_is_renewed() {
    let world = World::new();
    let options = AcquireOptions::new().hold_at_most(seconds(30));
    let guard = world.one.mutex("k").unwrap().acquire_with(&options).await.unwrap();
    world.live(seconds(29)).await;
    assert!(guard.state().is_held());
    world.live(seconds(2)).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::HeldTooLong)));
    assert!(world.other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok(), "it was released");
}

#[tokio::test]
async fn hold_at_least_keeps_the_key_taken_after_an_early_release() {
    let world = World::new();
    let options = AcquireOptions::new().hold_at_least(seconds(60));
    let job = world.one.mutex("k").unwrap();
    assert_eq!(job.run_with(&options, |_| async {}).await.unwrap(), Ran::Done(()));
    world.live(seconds(59)).await;
    let late = world.other.mutex("k").unwrap();
    assert!(matches!(late.run(|_| async {}).await.unwrap(), Ran::Busy(_)));
    world.live(seconds(2)).await;
    assert_eq!(late.run(|_| async {}).await.unwrap(), Ran::Done(()));
}

#[tokio::test]
async fn hold_at_least_keeps_the_key_taken_after_its_client_has_gone() {
    let world = World::new();
    let options = AcquireOptions::new().hold_at_least(seconds(60));
    let guard = world.one.mutex("k").unwrap().acquire_with(&options).await.unwrap();
    world.one.shutdown(seconds(1)).await;
    drop(guard);
    world.live(seconds(59)).await;
    assert!(world.other.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    world.live(seconds(2)).await;
    assert!(world.other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn patience_that_is_over_names_the_holder() {
    let world = World::new();
    let _guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.other.mutex("k").unwrap();
    let waiting = tokio::spawn(async move {
        lock.acquire_with(&AcquireOptions::new().wait(Wait::AtMost(seconds(300)))).await.unwrap_err()
    });
    settle().await;
    world.live(seconds(299)).await;
    assert!(!waiting.is_finished());
    world.live(seconds(2)).await;
    let error = waiting.await.unwrap();
    assert!(matches!(error.kind(), ErrorKind::WaitTimedOut(_)));
    assert_eq!(error.busy().unwrap().holder.as_ref().unwrap().name(), Some("one"));
    assert!(world.one.inspect("k").await.unwrap().queue.is_empty(), "it left the queue");
}

#[tokio::test]
async fn work_is_dropped_when_the_machine_slept_past_the_lease() {
    struct Noticed(Arc<AtomicBool>);
    impl Drop for Noticed {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let world = World::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    let noticed = Noticed(dropped.clone());
    let work = tokio::spawn(async move {
        guard
            .run(async move {
                let _noticed = noticed;
                pending::<()>().await;
            })
            .await
    });
    settle().await;
    world.clock.suspend(seconds(11));
    assert_eq!(work.await.unwrap(), Err(Lost(Reason::Expired)));
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_acquire_that_is_dropped_leaves_no_place_in_the_queue_and_no_hold() {
    let world = World::new();
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.other.mutex("k").unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    settle().await;
    assert_eq!(world.one.inspect("k").await.unwrap().queue.len(), 1);
    waiting.abort();
    settle().await;
    assert!(world.one.inspect("k").await.unwrap().queue.is_empty());
    guard.release().await.unwrap();
    assert!(world.one.inspect("k").await.unwrap().is_idle());
}

#[tokio::test]
async fn a_guard_may_be_dropped_on_a_thread_without_a_runtime() {
    let world = World::new();
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    settle().await;
    assert!(world.one.inspect("k").await.unwrap().is_idle());
}

#[tokio::test]
async fn a_lock_is_not_re_entrant() {
    let world = World::new();
    let lock = world.one.mutex("k").unwrap();
    let _guard = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_err());
}

#[tokio::test]
async fn a_detached_hold_survives_its_client_and_whoever_waits_for_it() {
    let world = World::new();
    let held = world.one.mutex("k").unwrap();
    let held = held.acquire_detached(seconds(3600), &AcquireOptions::new()).await.unwrap();
    let lock = world.other.mutex("k").unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    world.live(seconds(60)).await;
    world.one.shutdown(seconds(1)).await;
    world.live(seconds(60)).await;
    assert!(!waiting.is_finished());
    assert!(world.other.release_detached(&held.key, held.token).await.unwrap());
    assert!(waiting.await.unwrap().token() > held.token);
    assert!(!world.other.release_detached(&held.key, held.token).await.unwrap(), "it had ended");
}

#[tokio::test]
async fn a_client_that_was_shut_down_acquires_nothing_more() {
    let world = World::new();
    let guard = world.one.mutex("k").unwrap().acquire().await.unwrap();
    assert!(world.one.shutdown(seconds(1)).await.is_empty());
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::ShutDown)));
    assert_eq!(*world.one.mutex("k").unwrap().acquire().await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert!(world.other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}
