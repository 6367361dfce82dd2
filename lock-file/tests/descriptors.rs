//! How many descriptors the store keeps, and what it does without any.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use common::{Client, LONG, Place, Process, descriptors, mutex, queued, say, until};
use lock_core::{Claimed, Event, Standing};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Run by itself, for a process has one limit; without its parent it does nothing.
#[tokio::test]
async fn child() {
    let Some((_, backend)) = common::task() else { return };
    const HOLDS: u64 = 200;
    let client = Client::open(&backend, LONG).await;
    let mut known = Vec::new();
    for ticket in 1..=HOLDS {
        client.take(&format!("k{ticket}"), ticket).await;
        known.push(mutex(&format!("k{ticket}"), ticket).reference());
    }
    let limit = getrlimit(Resource::Nofile);
    let used = u64::try_from(descriptors()).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(used), ..limit }).unwrap();
    let spare: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let renewal = client.session.renew(&known).await.unwrap();
    drop(spare);
    say(renewal.standings.iter().filter(|standing| matches!(standing, Standing::Holds { .. })).count());
}

#[tokio::test]
async fn all_holds_are_verified_without_a_free_descriptor() {
    let place = Place::new();
    assert_eq!(Process::start(&place, "verify").hear(), "200");
}

#[tokio::test]
async fn a_hold_that_was_granted_by_push_keeps_no_descriptor() {
    const KEYS: u64 = 100;
    let place = Place::new();
    let backend = place.backend();
    let (a, mut b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    for ticket in 1..=KEYS {
        a.take(&format!("k{ticket}"), ticket).await;
    }
    let pipe = place.path().join("sessions").join(format!("{}.pipe", a.session.id()));
    let watches = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open = open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == pipe));
        // Without the two of the session itself.
        open.count() - 2
    };
    for ticket in 1..=KEYS {
        queued(b.claim(&format!("k{ticket}"), ticket, true).await);
    }
    until("a watch for each place in a queue", || watches() == 100).await;
    for ticket in 1..=KEYS {
        a.release(&format!("k{ticket}"), ticket).await;
    }
    let mut granted = 0;
    while granted < KEYS {
        granted += u64::from(matches!(b.next_event().await, Event::Granted { .. }));
    }
    until("none for a hold", || watches() == 0).await;
}

#[tokio::test]
async fn ten_thousand_cycles_leave_nothing_behind() {
    let place = Place::new();
    let backend = place.backend();
    let client = Client::open(&backend, LONG).await;
    for ticket in 1..=200 {
        client.take(&format!("warm {ticket}"), ticket).await;
        client.release(&format!("warm {ticket}"), ticket).await;
    }
    let baseline = descriptors();
    for ticket in 1..=10_000 {
        let name = format!("k{}", ticket % 500);
        client.take(&name, ticket).await;
        if ticket % 10 == 0 {
            let other = Client::open(&backend, LONG).await;
            queued(other.claim(&name, 1, true).await);
            other.session.close().await.unwrap();
        }
        client.release(&name, ticket).await;
    }
    until("descriptors back to the baseline", || descriptors() <= baseline).await;
    assert_eq!(place.session_files().len(), 2, "the session's record and its pipe");
    assert!(matches!(client.claim("k1", 20_000, false).await, Claimed::Granted { .. }));
}
