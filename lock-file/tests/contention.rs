//! Many tasks at one key, and tasks that never rest.

#![allow(clippy::unwrap_used, reason = "a test that fails has to stop")]
#![allow(clippy::disallowed_methods, reason = "tasks of the test's own, on runtimes of its own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::records::RecordStore;
use lock_core::{AcquireOptions, Clock, LockClient, LockKey, SystemClock, Wait};
use lock_file::{FileOptions, FileStore};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A tombstone lasts as long as its session: what is left behind by each cycle, or each wait that was given up, piles up.
#[test]
fn the_record_of_a_contended_key_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locks");
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || runtime().block_on(contend(path)))
        })
        .collect();
    // They live on: their sessions have not ended.
    let _clients: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let store = FileStore::open(&path, FileOptions::new()).unwrap();
    let record = runtime().block_on(store.read(&LockKey::new("k").unwrap())).unwrap().bytes;
    assert!(record.len() < 33 + 24 * 10, "{} bytes", record.len());
}

async fn contend(path: std::path::PathBuf) -> LockClient {
    let client = LockClient::builder(lock_file::backend(&path, FileOptions::new()).unwrap()).build().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let lock = client.mutex("k").unwrap();
        tasks.push(tokio::spawn(async move {
            for turn in 0..1_000 {
                let impatient = turn % 3 == 0;
                let wait = if impatient { Wait::AtMost(Duration::from_micros(300)) } else { Wait::Unbounded };
                if let Ok(guard) = lock.acquire_with(&AcquireOptions::new().wait(wait)).await {
                    guard.release().await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    client
}

/// Nothing in a local store ever has to be waited for: the engine leaves room for the others of its thread all the same.
#[test]
fn a_task_that_never_rests_leaves_room_for_others() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let backend = lock_file::backend(dir.path().join("locks"), FileOptions::new()).unwrap();
        let lock = LockClient::builder(backend).build().unwrap().mutex("k").unwrap();
        let turns = Arc::new(AtomicU64::new(0));
        let counted = turns.clone();
        tokio::spawn(async move {
            loop {
                tokio::task::yield_now().await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let clock = SystemClock::new();
        let began = clock.boot();
        let mut cycles = 0_u64;
        while cycles < 2_000 || clock.boot().since(began) < Duration::from_millis(200) {
            lock.acquire().await.unwrap().release().await.unwrap();
            cycles += 1;
        }
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns > cycles / 1_000, "the other task had {turns} turns in {cycles} cycles");
    });
}
