//! Damaged and half-written: the file `store`, and the records of sessions. Those of keys are in `records.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place, mutex, refused};
use lock_core::records::RecordStore;
use lock_core::{ErrorKind, VirtualClock};
use lock_file::{FileOptions, FileStore};

/// What can become of a file whose header is this long.
fn damages(good: &[u8], header: usize) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("cut in the header", good[..40].to_vec()),
        ("cut after the header", good[..header].to_vec()),
        ("zeros", vec![0; good.len()]),
        ("garbled header", [&[0xAA; 64], &good[64..]].concat()),
        ("garbled slots", [&good[..header], &vec![0xAA; good.len() - header]].concat()),
        ("another version", [b"fencpst9", &good[8..]].concat()),
    ]
}

fn header_len(file: &[u8]) -> usize {
    u32::from_be_bytes(file[8..12].try_into().unwrap()).try_into().unwrap()
}

fn record_of(place: &Place, client: &Client) -> PathBuf {
    place.path().join("sessions").join(client.session.id().to_string())
}

#[tokio::test]
async fn a_damaged_store_file_is_an_error_and_stays_as_it_is() {
    let place = Place::new();
    Client::open(&place.backend(), LONG).await;
    let file = place.path().join("store");
    let good = std::fs::read(&file).unwrap();
    for (what, bytes) in damages(&good, header_len(&good)) {
        std::fs::write(&file, &bytes).unwrap();
        let error = refused(place.path(), FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Damaged, "{what}: {error}");
        assert!(error.to_string().contains("`store`"), "{what}: {error}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{what}: left as it is");
    }
    std::fs::write(&file, &good).unwrap();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
}

#[tokio::test]
async fn every_prefix_of_a_write_to_the_store_file_leaves_time_and_floor() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let options = |boot: &str| FileOptions::new().clock(Arc::new(clock.clone())).boot_id(boot);
    let file = place.path().join("store");
    // Each opening of a session notes the time.
    let backend = place.backend_with(options("a"));
    Client::open(&backend, LONG).await;
    clock.advance(Duration::from_secs(100));
    let noted = FileStore::open(place.path(), options("a")).unwrap().input().await.unwrap().now;
    Client::open(&backend, LONG).await;
    let before = std::fs::read(&file).unwrap();
    clock.advance(Duration::from_secs(100));
    Client::open(&backend, LONG).await;
    let after = std::fs::read(&file).unwrap();
    let changed: Vec<_> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    // The wall clock of the next boot is far behind, so that what was noted decides.
    clock.step_wall(-50_000_000);
    for torn in changed[0]..=changed[changed.len() - 1] {
        let mut bytes = before.clone();
        bytes[changed[0]..torn].copy_from_slice(&after[changed[0]..torn]);
        std::fs::write(&file, &bytes).unwrap();
        let next = FileStore::open(place.path(), options("b")).unwrap();
        assert!(next.input().await.unwrap().now >= noted, "torn at {torn}");
    }
}

#[tokio::test]
async fn a_damaged_session_is_an_error_while_its_process_lives_and_over_when_it_is_gone() {
    let place = Place::new();
    for what in 0..7 {
        let owner = Client::open(&place.backend(), LONG).await;
        owner.take("k", 1).await;
        let file = record_of(&place, &owner);
        let good = std::fs::read(&file).unwrap();
        let (what, bytes) = damages(&good, header_len(&good)).remove(what);
        std::fs::write(&file, &bytes).unwrap();
        let other = Client::open(&place.backend(), LONG).await;
        let error = other.session.claim(&mutex("k", 1)).await.expect_err(what);
        assert_eq!(*error.kind(), ErrorKind::Damaged, "{what}: {error}");
        assert!(error.to_string().contains("fuser"), "{what}: {error}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{what}: left as it is");
        drop(owner);
        // The reader's task ends when the runtime gets to it.
        tokio::task::yield_now().await;
        other.take("k", 1).await;
        assert!(!file.exists(), "{what}");
        other.session.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_session_without_its_pipe_says_what_to_remove() {
    let place = Place::new();
    let owner = Client::open(&place.backend(), LONG).await;
    owner.take("k", 1).await;
    let file = record_of(&place, &owner);
    std::fs::write(&file, b"").unwrap();
    std::fs::remove_file(file.with_extension("pipe")).unwrap();
    drop(owner);
    let other = Client::open(&place.backend(), LONG).await;
    let error = other.session.claim(&mutex("k", 1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Damaged);
    let advice = format!("remove {}", file.display());
    assert!(error.to_string().contains(&advice) && !error.to_string().contains("fuser"), "{error}");
    std::fs::remove_file(&file).unwrap();
    other.take("k", 1).await;
}

#[tokio::test]
async fn every_prefix_of_a_renewal_leaves_a_session_alive() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let options = FileOptions::new().clock(Arc::new(clock.clone()));
    let owner = Client::open(&place.backend_with(options.clone()), LONG).await;
    let file = record_of(&place, &owner);
    clock.advance(Duration::from_secs(10));
    owner.session.renew(&[]).await.unwrap();
    let before = std::fs::read(&file).unwrap();
    clock.advance(Duration::from_secs(10));
    owner.session.renew(&[]).await.unwrap();
    let after = std::fs::read(&file).unwrap();
    let changed: Vec<_> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    let judge = FileStore::open(place.path(), options).unwrap();
    for torn in changed[0]..=changed[changed.len() - 1] {
        let mut bytes = before.clone();
        bytes[changed[0]..torn].copy_from_slice(&after[changed[0]..torn]);
        std::fs::write(&file, &bytes).unwrap();
        let sight = judge.sight(owner.session.id()).await.unwrap();
        assert_eq!((sight.lives, sight.remaining), (true, Some(Duration::from_secs(50))), "torn at {torn}");
    }
}
