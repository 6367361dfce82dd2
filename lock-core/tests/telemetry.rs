//! Metrics under their documented names.

#![cfg(feature = "metrics")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_core::{AcquireOptions, LockClient, MemoryBackend, VirtualClock, telemetry};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

#[test]
fn every_metric_has_its_name_and_its_labels() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        telemetry::describe();
        runtime.block_on(work());
    });
    let seen: Vec<_> = snapshotter.snapshot().into_vec();
    let find = |name: &str, label: Option<&str>| {
        seen.iter()
            .find(|(key, ..)| {
                key.key().name() == name
                    && label.is_none_or(|label| key.key().labels().any(|l| l.value() == label))
            })
            .map_or_else(|| panic!("no {name} {label:?}"), |(.., value)| value)
    };
    assert_eq!(find(telemetry::ACQUIRED, None), &DebugValue::Counter(3));
    assert_eq!(find(telemetry::BUSY, None), &DebugValue::Counter(1));
    assert_eq!(find(telemetry::LOST, Some("held_too_long")), &DebugValue::Counter(1));
    // One that was tried, one that was waited for.
    assert_eq!(find(telemetry::WANTED, None), &DebugValue::Counter(2));
    assert_eq!(find(telemetry::PERHAPS_LEAKED, None), &DebugValue::Counter(1));
    assert!(matches!(find(telemetry::WAITED, None), DebugValue::Histogram(values) if values.len() == 3));
    assert!(
        matches!(find(telemetry::HELD, None), DebugValue::Histogram(values) if values.contains(&60.0.into()))
    );
    assert!(matches!(find(telemetry::OLDEST_HOLD, None), DebugValue::Gauge(age) if age.into_inner() > 100.0));
}

/// Whether a future has to wait.
async fn poll_once(mut future: std::pin::Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

async fn work() {
    let clock = VirtualClock::new();
    let client = LockClient::builder(MemoryBackend::with_clock(Arc::new(clock.clone())))
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    let lock = client.mutex("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let aged = lock.acquire_with(&AcquireOptions::new().hold_at_most(Duration::from_secs(60))).await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_err());
    let leaked = client.mutex("leaked").unwrap().acquire().await.unwrap();
    let waiter = client.mutex("leaked").unwrap();
    let waiting = std::pin::pin!(waiter.acquire());
    assert!(poll_once(waiting).await);
    for _ in 0..1200 {
        clock.advance(Duration::from_millis(100));
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }
    assert!(!aged.state().is_held());
    std::mem::forget(leaked);
}

/// Eight long holds that are meant to be long do not hide the ninth.
#[test]
fn every_hold_that_may_be_leaked_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let clock = VirtualClock::new();
            let store = MemoryBackend::with_clock(Arc::new(clock.clone()));
            let client = LockClient::builder(store).clock(Arc::new(clock.clone())).build().unwrap();
            for number in 0..20 {
                std::mem::forget(client.mutex(format!("k{number}")).unwrap().acquire().await.unwrap());
            }
            for _ in 0..400 {
                clock.advance(Duration::from_secs(1));
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
            }
        });
    });
    let seen = snapshotter.snapshot().into_vec();
    let leaks =
        seen.iter().find(|(key, ..)| key.key().name() == telemetry::PERHAPS_LEAKED).map(|(.., value)| value);
    assert_eq!(leaks, Some(&DebugValue::Counter(20)));
}
