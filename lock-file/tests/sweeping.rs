//! Idle keys are removed, and nothing that matters with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place, mutex};
use lock_core::records::{RecordStore, Written};
use lock_core::{Clock, LockKey, SystemClock, VirtualClock};
use lock_file::{FileOptions, FileStore};

/// Renews until every shard was swept.
async fn sweep_all(client: &Client) {
    for _ in 0..256 {
        client.session.renew(&[]).await.unwrap();
    }
}

#[tokio::test]
async fn idle_keys_are_removed_and_their_tokens_are_not_forgotten() {
    let place = Place::new();
    let backend = place.backend_with(FileOptions::new().idle_after(Duration::ZERO));
    let client = Client::open(&backend, LONG).await;
    let long = "y".repeat(500);
    let before = client.take(&long, 1).await;
    client.take("held", 2).await;
    client.release(&long, 1).await;
    sweep_all(&client).await;
    assert_eq!(place.key_files().len(), 1, "only the one that is held stays");
    assert!(client.take(&long, 3).await > before);
    // A dead holder without waiters is no reason to keep a file either.
    drop(client);
    tokio::task::yield_now().await;
    let client = Client::open(&backend, LONG).await;
    sweep_all(&client).await;
    assert!(place.key_files().is_empty());
}

#[tokio::test]
async fn a_damaged_file_is_never_swept_and_keeps_no_other_from_it() {
    let place = Place::new();
    let backend = place.backend_with(FileOptions::new().idle_after(Duration::ZERO));
    let client = Client::open(&backend, LONG).await;
    let mut ticket = 0;
    // Until two of them share a shard.
    let damaged = loop {
        ticket += 1;
        client.take(&format!("k{ticket}"), ticket).await;
        client.release(&format!("k{ticket}"), ticket).await;
        let files = place.key_files();
        if let Some(pair) = files.windows(2).find(|pair| pair[0].parent() == pair[1].parent()) {
            break pair[0].clone();
        }
    };
    std::fs::write(&damaged, b"?").unwrap();
    sweep_all(&client).await;
    // Everything else was swept, whatever stood behind it.
    assert_eq!(place.key_files(), [damaged]);
}

#[tokio::test]
async fn a_key_that_was_used_a_moment_ago_stays() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    client.take("k", 1).await;
    client.release("k", 1).await;
    sweep_all(&client).await;
    assert_eq!(place.key_files().len(), 1);
}

#[tokio::test]
async fn a_clock_a_year_ahead_that_was_corrected_brings_no_token_back() {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let place = Place::new();
    let options = |clock: &VirtualClock, boot: &str| {
        let clock = Arc::new(clock.clone());
        FileOptions::new().clock(clock).boot_id(boot).idle_after(Duration::ZERO)
    };
    let clock = VirtualClock::new();
    // After the files' own times, so that they count as idle.
    let wall = Duration::from_micros(SystemClock::new().wall_micros() - clock.wall_micros());
    clock.advance(wall + YEAR);
    let client = Client::open(&place.backend_with(options(&clock, "first")), LONG).await;
    let ahead = client.take("removed", 1).await;
    client.release("removed", 1).await;
    clock.advance(Duration::from_millis(1));
    sweep_all(&client).await;
    assert!(place.key_files().is_empty(), "idle, and its token is behind the clock");
    let kept = client.take("kept", 2).await;
    // A year is taken back from the time of the store itself, which no wall clock can do.
    let corrected = VirtualClock::new();
    corrected.advance(wall);
    let client = Client::open(&place.backend_with(options(&corrected, "first")), LONG).await;
    let after = client.take("removed", 1).await;
    assert!(after > ahead, "{after} after {ahead}");
    let key = mutex("kept", 1).key;
    place.backend_with(options(&corrected, "first")).force_release(&key, None).await.unwrap();
    assert!(client.take("kept", 2).await > kept);
    client.release("kept", 2).await;
    corrected.advance(Duration::from_millis(1));
    sweep_all(&client).await;
    assert_eq!(place.key_files().len(), 2, "what is ahead of the clock is not removed");
}

#[tokio::test]
async fn a_record_made_and_removed_in_between_is_noticed() {
    let place = Place::new();
    let store = FileStore::open(place.path(), FileOptions::new()).unwrap();
    let key = LockKey::new("k").unwrap();
    let absent = store.read(&key).await.unwrap();
    let backend = place.backend_with(FileOptions::new().idle_after(Duration::ZERO));
    let client = Client::open(&backend, LONG).await;
    client.take("k", 1).await;
    client.release("k", 1).await;
    sweep_all(&client).await;
    assert!(place.key_files().is_empty());
    let Written::Conflict(now) = store.write(&key, absent.version, b"x").await.unwrap() else {
        panic!("a record whose floor is out of date was made")
    };
    assert!(now.floor > absent.floor && now.version != absent.version);
    assert_eq!(store.write(&key, now.version, b"x").await.unwrap(), Written::Done);
}
