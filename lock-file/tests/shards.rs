//! The directories of keys: locked and cleaned.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use common::{Client, LONG, Place, mutex};
use lock_core::records::{RecordStore, Written};
use lock_core::{Clock, ErrorKind, LockKey, SystemClock};
use lock_file::{FileOptions, FileStore};
use rustix::fs::{FlockOperation, flock};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(SystemClock::new().wall_micros())
}

fn set_time(path: &std::path::Path, time: SystemTime) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Renews until every shard was swept, twice.
async fn sweep_all(client: &Client) {
    for _ in 0..512 {
        client.session.renew(&[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_that_is_stuck_is_an_error_that_says_so() {
    let place = Place::new();
    let store = FileStore::open(place.path(), FileOptions::new()).unwrap();
    let key = LockKey::new("k").unwrap();
    let absent = store.read(&key).await.unwrap();
    assert_eq!(store.write(&key, absent.version, b"one").await.unwrap(), Written::Done);
    let file = std::fs::File::open(&place.key_files()[0]).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let read = store.read(&key).await.unwrap();
    assert_eq!(read.bytes, b"one", "reading needs no lock");
    let error = store.write(&key, read.version, b"two").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("critical section") && error.is_retryable(), "{error}");
    // A torn slot needs the lock as well: only so it is known that nobody is at it.
    let path = &place.key_files()[0];
    let len = std::fs::metadata(path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_at(&[1; 16], len - 512).unwrap();
    assert!(store.read(&key).await.is_err());
    drop(file);
    assert_eq!(store.read(&key).await.unwrap().bytes, b"one");
}

#[tokio::test]
async fn a_shard_that_is_stuck_is_named() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    client.take("k", 1).await;
    let file = place.key_files().remove(0);
    let shard = file.parent().unwrap();
    std::fs::remove_file(&file).unwrap();
    let open = std::fs::File::open(shard).unwrap();
    flock(&open, FlockOperation::NonBlockingLockExclusive).unwrap();
    let error = client.session.claim(&mutex("k", 2)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("critical section of {} and", shard.display())), "{error}");
}

#[tokio::test]
async fn what_never_got_its_place_is_removed_wherever_it_lies() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    client.take(&"y".repeat(500), 1).await;
    let innermost = place.key_files()[0].parent().unwrap().to_owned();
    let shard = innermost.parent().unwrap().parent().unwrap().to_owned();
    let everywhere =
        [innermost, shard.clone(), place.path(), place.path().join("keys"), place.path().join("sessions")];
    let (mut old, mut young) = (Vec::new(), Vec::new());
    for dir in &everywhere {
        std::fs::create_dir(dir.join("~0123456789abcdef")).unwrap();
        for (name, list) in [("~00000000000000ff", &mut old), ("~ffffffffffffffff", &mut young)] {
            std::fs::write(dir.join(name), b"").unwrap();
            list.push(dir.join(name));
        }
        // Not a name that this store gives.
        std::fs::write(dir.join("~notes"), b"").unwrap();
        young.push(dir.join("~notes"));
        old.push(dir.join("~0123456789abcdef"));
    }
    for path in old.iter().chain(young.iter().filter(|path| path.ends_with("~notes"))) {
        let file = std::fs::File::open(path).unwrap();
        file.set_modified(now() - HOUR).unwrap();
    }
    sweep_all(&client).await;
    let _other = Client::open(&place.backend(), LONG).await;
    assert_eq!(
        old.iter().filter(|path| path.exists()).collect::<Vec<_>>(),
        Vec::<&std::path::PathBuf>::new()
    );
    assert!(young.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn empty_directories_of_long_keys_are_removed() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    let emptied = "y".repeat(500);
    client.take(&emptied, 1).await;
    let file = place.key_files().remove(0);
    client.take(&"z".repeat(500), 2).await;
    // As a kill leaves them between the making of a key's directories and of its file.
    std::fs::remove_file(&file).unwrap();
    sweep_all(&client).await;
    assert!(!file.parent().unwrap().parent().unwrap().exists());
    assert_eq!(place.key_files().len(), 1);
    // And are made again.
    client.take(&emptied, 3).await;
}

#[tokio::test]
async fn a_file_from_the_future_is_swept_all_the_same() {
    let place = Place::new();
    let options = FileOptions::new().idle_after(Duration::from_micros(1));
    let client = Client::open(&place.backend_with(options), LONG).await;
    client.take("k", 1).await;
    client.release("k", 1).await;
    let file = place.key_files().remove(0);
    set_time(&file, now() + 8766 * HOUR);
    sweep_all(&client).await;
    assert!(!file.exists(), "it would have stayed for a year");
}
