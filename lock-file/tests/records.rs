//! The records of keys: torn, damaged, grown, removed; and what names they take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::{Client, LONG, Place, mutex, queued};
use lock_core::records::{RecordStore, Version, Written};
use lock_core::{Clock, ErrorKind, LockKey, Prefix, Query, Released, SystemClock, VirtualClock};
use lock_file::{FileOptions, FileStore};

fn store(place: &Place) -> FileStore {
    FileStore::open(place.path(), FileOptions::new()).unwrap()
}

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

async fn put(store: &FileStore, key: &LockKey, record: &[u8]) {
    let current = store.read(key).await.unwrap();
    assert_eq!(store.write(key, current.version, record).await.unwrap(), Written::Done);
}

#[tokio::test]
async fn a_write_needs_the_version_that_was_read() {
    let place = Place::new();
    let (one, two) = (store(&place), store(&place));
    let absent = one.read(&key("k")).await.unwrap();
    assert!(absent.bytes.is_empty());
    assert_eq!(one.write(&key("k"), absent.version, b"a").await.unwrap(), Written::Done);
    let Written::Conflict(now) = two.write(&key("k"), absent.version, b"b").await.unwrap() else {
        panic!("made twice")
    };
    assert_eq!(now.bytes, b"a");
    assert_eq!(two.write(&key("k"), now.version, b"b").await.unwrap(), Written::Done);
    assert!(matches!(one.write(&key("k"), now.version, b"c").await.unwrap(), Written::Conflict(_)));
    assert_eq!(one.read(&key("k")).await.unwrap().bytes, b"b");
}

#[tokio::test]
async fn a_descriptor_that_was_kept_does_not_answer_for_a_file_that_is_gone() {
    let place = Place::new();
    let (one, two) = (store(&place), store(&place));
    put(&one, &key("k"), b"small").await;
    put(&two, &key("k"), &[7; 5000]).await;
    assert_eq!(one.read(&key("k")).await.unwrap().bytes, [7; 5000]);
    std::fs::remove_file(&place.key_files()[0]).unwrap();
    assert!(one.read(&key("k")).await.unwrap().bytes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_update_is_lost_between_tasks_of_one_process() {
    let place = Place::new();
    let store = Arc::new(store(&place));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.push(tokio::runtime::Handle::current().spawn(async move {
            for _ in 0..500 {
                let mut current = store.read(&key("k")).await.unwrap();
                loop {
                    let number = if current.bytes.is_empty() {
                        0
                    } else {
                        u64::from_be_bytes(current.bytes[..8].try_into().unwrap())
                    };
                    // Longer and longer: the file is enlarged under everybody's feet.
                    let mut next = (number + 1).to_be_bytes().to_vec();
                    next.resize(8 + usize::try_from(number).unwrap(), 7);
                    match store.write(&key("k"), current.version, &next).await.unwrap() {
                        Written::Done => break,
                        Written::Conflict(fresh) => current = fresh,
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let last = store.read(&key("k")).await.unwrap();
    assert_eq!(u64::from_be_bytes(last.bytes[..8].try_into().unwrap()), 4000);
    assert_eq!(last.bytes.len(), 8 + 3999);
}

#[tokio::test]
async fn every_prefix_of_a_torn_write_falls_back_to_the_record_before() {
    let place = Place::new();
    let k = key("k");
    put(&store(&place), &k, &[1; 90]).await;
    put(&store(&place), &k, &[2; 91]).await;
    let file = place.key_files().remove(0);
    let before = std::fs::read(&file).unwrap();
    put(&store(&place), &k, &[3; 92]).await;
    let after = std::fs::read(&file).unwrap();
    let changed: Vec<_> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    let (first, last) = (changed[0], changed[changed.len() - 1]);
    for torn in first..=last {
        let mut bytes = before.clone();
        bytes[first..torn].copy_from_slice(&after[first..torn]);
        std::fs::write(&file, &bytes).unwrap();
        let store = store(&place);
        let read = store.read(&k).await.unwrap();
        assert_eq!(read.bytes, [2; 91], "torn at {torn}");
        assert_eq!(store.write(&k, read.version, &[4; 93]).await.unwrap(), Written::Done);
        assert_eq!(store.read(&k).await.unwrap().bytes, [4; 93]);
    }
}

#[tokio::test]
async fn a_damaged_record_is_an_error_and_stays_as_it_is() {
    let place = Place::new();
    let backend = place.backend();
    let client = Client::open(&backend, LONG).await;
    client.take("k", 1).await;
    client.release("k", 1).await;
    let file = place.key_files().remove(0);
    let good = std::fs::read(&file).unwrap();
    let without_slots = [&good[..64], &vec![0xAA; good.len() - 64]].concat();
    let damages = [
        ("empty", Vec::new()),
        ("cut in the header", good[..40].to_vec()),
        ("cut after the header", good[..64].to_vec()),
        ("no header", vec![0; good.len()]),
        ("garbled slots", without_slots),
        ("another version", [b"fencpst9", &good[8..]].concat()),
    ];
    for (what, bytes) in damages {
        std::fs::write(&file, &bytes).unwrap();
        // With a cold cache and with a warm one.
        let cold = Client::open(&place.backend(), LONG).await;
        let error = cold.session.claim(&mutex("k", 2)).await.expect_err(what);
        assert_eq!(*error.kind(), ErrorKind::Damaged, "{what}: {error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        assert_eq!(error.key(), Some(&key("k")));
        assert!(
            backend.inspect(&key("k")).await.is_err() || what.contains("header") || what == "another version"
        );
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{what}: left as it is");
    }
    std::fs::write(&file, &good).unwrap();
    client.take("k", 3).await;
}

#[tokio::test]
async fn a_file_that_a_power_loss_left_without_its_content_is_made_anew_above_the_clock() {
    let place = Place::new();
    let before = Client::open(&place.backend(), LONG).await.take("k", 1).await;
    let file = place.key_files().remove(0);
    let good = std::fs::read(&file).unwrap();
    // The machine started again, an hour later.
    let clock = VirtualClock::new();
    let wall = SystemClock::new().wall_micros() - clock.wall_micros() + 3_600_000_000;
    clock.step_wall(wall.try_into().unwrap());
    let options =
        || FileOptions::new().clock(Arc::new(clock.clone())).boot_id("next").idle_after(Duration::ZERO);
    let unfilled = [
        ("empty", Vec::new()),
        ("zeros", vec![0; good.len()]),
        ("header alone", good[..64].to_vec()),
        ("header and zeros", [&good[..64], &vec![0; good.len() - 64]].concat()),
    ];
    for (what, bytes) in unfilled {
        std::fs::write(&file, &bytes).unwrap();
        let backend = place.backend_with(options());
        assert!(backend.list(&Query::new(None, "", 10)).await.unwrap().keys.is_empty(), "{what}");
        let client = Client::open(&backend, LONG).await;
        assert!(client.take("k", 1).await > before, "{what}");
        client.session.close().await.unwrap();
        // Nobody uses it again: then it is swept.
        std::fs::write(&file, &bytes).unwrap();
        let client = Client::open(&place.backend_with(options()), LONG).await;
        for _ in 0..256 {
            client.session.renew(&[]).await.unwrap();
        }
        assert!(!file.exists(), "{what}");
    }
    // What holds something that is no longer read is never made anew.
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_at(&[1; 16], 64).unwrap();
    let client = Client::open(&place.backend_with(options()), LONG).await;
    let error = client.session.claim(&mutex("k", 1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_file_is_enlarged_off_the_runtimes_thread_and_to_the_end() {
    let place = Place::new();
    let store = store(&place);
    put(&store, &key("k"), b"small").await;
    let version = store.read(&key("k")).await.unwrap().version;
    {
        let (k, record) = (key("k"), [7; 5000]);
        let mut writing = store.write(&k, version, &record);
        let mut context = Context::from_waker(Waker::noop());
        assert!(writing.as_mut().poll(&mut context).is_pending(), "it waited for the disk on this thread");
    }
    // Its future was dropped. The version guards it as it does every write.
    common::within("the enlargement", async {
        while store.read(&key("k")).await.unwrap().bytes != [7; 5000] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(store.write(&key("k"), version, b"late").await.unwrap(), Written::Conflict(_)));
}

#[tokio::test]
async fn two_hundred_waiters_outgrow_the_slot() {
    let place = Place::new();
    let backend = place.backend();
    let holder = Client::open(&backend, LONG).await;
    holder.take("k", 1).await;
    let small = std::fs::metadata(&place.key_files()[0]).unwrap().len();
    let waiters = Client::open(&backend, LONG).await;
    for ticket in 1..=200 {
        queued(waiters.claim("k", ticket, true).await);
    }
    assert!(std::fs::metadata(&place.key_files()[0]).unwrap().len() > 4 * small);
    assert_eq!(backend.inspect(&key("k")).await.unwrap().queue.len(), 200);
    assert_eq!(place.key_files().len(), 1, "nothing is left of the smaller ones");
    holder.release("k", 1).await;
    for ticket in 1..=200 {
        assert_eq!(waiters.release("k", ticket).await, Released::Done, "{ticket}");
    }
    holder.take("k", 2).await;
}

#[tokio::test]
async fn no_two_names_meet() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    let long = "x".repeat(512);
    let names = [
        "a",
        "A",
        "aA",
        "Aa",
        ".",
        "..",
        "...",
        "a/b",
        "a%2Fb",
        "a",
        "\0",
        "a\0",
        " ",
        "a ",
        "ä",
        "Ä",
        "a+",
        "+",
        "~a",
        "a/../b",
        "a.pipe",
        &long,
        &long[..511],
        &long[..200],
        &long[..201],
        &long[..400],
        "store",
        "keys/00",
        &"/".repeat(512),
        &"ü".repeat(256),
    ];
    let distinct: BTreeSet<_> = names.into_iter().collect();
    for (ticket, name) in (1..).zip(&distinct) {
        client.take(name, ticket).await;
    }
    let tail: Vec<_> = [".", "..", "+"].iter().map(|tail| format!("{}{tail}", &long[..200])).collect();
    for (ticket, name) in (100..).zip(&tail) {
        client.take(name, ticket).await;
    }
    let prefix = Prefix::new("a").unwrap();
    let mut prefixed = mutex("b", 200);
    prefixed.key = prefixed.key.under(Some(&prefix));
    common::granted(client.session.claim(&prefixed).await.unwrap());
    let backend = place.backend();
    let all: BTreeSet<String> = {
        let (mut names, mut after) = (BTreeSet::new(), None);
        loop {
            let page = backend.list(&Query::new(None, "", 3).after(after)).await.unwrap();
            for key in page.keys {
                assert!(names.insert(key.as_str().to_owned()), "{key} came twice");
            }
            after = page.next;
            if after.is_none() {
                break names;
            }
        }
    };
    let expected: BTreeSet<String> =
        distinct.into_iter().map(str::to_owned).chain(tail.iter().cloned()).collect();
    assert_eq!(all, expected);
    let under = backend.list(&Query::new(Some(prefix), "", 10)).await.unwrap();
    assert_eq!(under.keys, [prefixed.key]);
}

#[tokio::test]
async fn a_file_under_another_keys_name_is_refused() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    client.take("a", 1).await;
    client.take("b", 2).await;
    let files = place.key_files();
    std::fs::copy(&files[0], &files[1]).unwrap();
    let other = Client::open(&place.backend(), LONG).await;
    let mut refused = 0;
    for name in ["a", "b"] {
        if let Err(error) = other.session.claim(&mutex(name, 1)).await {
            assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn a_record_that_was_made_anew_has_another_version() {
    let place = Place::new();
    let store = store(&place);
    put(&store, &key("k"), b"one").await;
    let first = store.read(&key("k")).await.unwrap().version;
    std::fs::remove_file(&place.key_files()[0]).unwrap();
    assert!(
        matches!(store.write(&key("k"), first, b"x").await.unwrap(), Written::Conflict(now) if now.bytes.is_empty())
    );
    put(&store, &key("k"), b"two").await;
    let second = store.read(&key("k")).await.unwrap();
    assert_eq!(second.bytes, b"two");
    assert_ne!(second.version, first);
    assert!(matches!(store.write(&key("k"), first, b"x").await.unwrap(), Written::Conflict(_)));
    assert!(matches!(store.write(&key("k"), Version(1), b"x").await.unwrap(), Written::Conflict(_)));
}

#[tokio::test]
async fn time_does_not_go_back_over_a_restart() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let options = |boot: &str| FileOptions::new().clock(Arc::new(clock.clone())).boot_id(boot);
    let store = FileStore::open(place.path(), options("a")).unwrap();
    let backend = place.backend_with(options("a"));
    clock.advance(Duration::from_secs(100));
    Client::open(&backend, LONG).await;
    let before = store.input().await.unwrap().now;
    // Within one boot nobody cares for the wall clock.
    clock.step_wall(-50_000_000);
    assert_eq!(store.input().await.unwrap().now, before);
    let again = FileStore::open(place.path(), options("a")).unwrap();
    assert_eq!(again.input().await.unwrap().now, before);
    let after = FileStore::open(place.path(), options("b")).unwrap().input().await.unwrap().now;
    assert!(after >= before, "{after} after {before}");
    clock.step_wall(3_600_000_000);
    let later = FileStore::open(place.path(), options("c")).unwrap().input().await.unwrap().now;
    assert_eq!(later, clock.wall_micros());
}
