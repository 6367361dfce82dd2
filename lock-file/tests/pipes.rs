//! The pipes of sessions: what goes through them, and what is left of them when something fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::io::Write;

use common::{Client, LONG, Place, queued};
use lock_core::{Domain, ErrorKind, Event, EventSink, HolderInfo, SessionId, SessionOptions};

#[tokio::test]
async fn an_unknown_message_and_a_full_pipe_are_gaps() {
    let place = Place::new();
    let backend = place.backend();
    let mut a = Client::open(&backend, LONG).await;
    let path = place.path().join("sessions").join(format!("{}.pipe", a.session.id()));
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    pipe.write_all(&[9; 32]).unwrap();
    assert!(matches!(a.next_event().await, Event::Gap));
    // The current thread's runtime does not read while we write: the pipe fills up.
    let b = Client::open(&backend, LONG).await;
    a.take("k", 1).await;
    for _ in 0..3000 {
        // Each try tells the holder that it is wanted.
        queued(b.claim("k", 1, true).await);
    }
    let wanted = wanted_before_a_gap(&mut a).await;
    assert!(wanted < 3000, "the rest was dropped");
}

#[tokio::test]
async fn wake_ups_that_were_dropped_are_a_gap_however_long_the_key() {
    let place = Place::new();
    let backend = place.backend();
    let (mut a, b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    // Two such messages fill a page by two thirds.
    let long = "/".repeat(455);
    a.take(&long, 1).await;
    for _ in 0..100 {
        queued(b.claim(&long, 1, true).await);
    }
    let wanted = wanted_before_a_gap(&mut a).await;
    assert!(wanted < 100, "the pipe was to be filled");
}

#[tokio::test]
async fn the_second_waiter_is_told_when_the_first_dies_with_the_holder() {
    let place = Place::new();
    let backend = place.backend();
    let holder = Client::open(&backend, LONG).await;
    holder.take("k", 1).await;
    let first = Client::open(&backend, LONG).await;
    queued(first.claim("k", 1, true).await);
    let mut second = Client::open(&backend, LONG).await;
    queued(second.claim("k", 1, true).await);
    // In this order nobody is left who could wake it; as with a container that is killed.
    drop(first);
    drop(holder);
    assert!(matches!(second.next_event().await, Event::Recheck(_)));
    second.acquire("k", 1).await;
}

#[tokio::test]
async fn a_session_whose_record_cannot_be_removed_is_over_all_the_same() {
    let place = Place::new();
    let backend = place.backend();
    let (a, b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    a.take("k", 1).await;
    let record = place.path().join("sessions").join(a.session.id().to_string());
    let aside = place.path().join("aside");
    // A directory is not unlinked, by nobody.
    std::fs::rename(&record, &aside).unwrap();
    std::fs::create_dir(&record).unwrap();
    a.session.close().await.unwrap_err();
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&aside, &record).unwrap();
    // The reader's task ends when the runtime gets to it.
    tokio::task::yield_now().await;
    b.take("k", 1).await;
}

#[test]
fn a_runtime_without_io_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let backend = place.backend();
    let options = SessionOptions::new(SessionId::from_u128(9), Domain(0), LONG, HolderInfo::new(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let error = runtime.block_on(backend.open(&options, EventSink::new(|_| {}))).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("enable_all"), "{error}");
    assert!(place.session_files().is_empty());
    // The same id, where it can be served.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(backend.open(&options, EventSink::new(|_| {}))).unwrap();
}

async fn wanted_before_a_gap(client: &mut Client) -> usize {
    let mut wanted = 0;
    loop {
        match client.next_event().await {
            Event::Wanted(_) => wanted += 1,
            Event::Gap => return wanted,
            other => panic!("{other:?}"),
        }
    }
}
