//! Whose the directory may be, and who may do what in it.
//!
//! What needs other users needs root, is skipped without it, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Client, LONG, Place, chmod, is_root, mode, refused, run_child_by};
use lock_core::ErrorKind;
use lock_file::{FileOptions, FileStore};
use rustix::fs::{FlockOperation, flock};
use rustix::process::getegid;

const NOBODY: u32 = 65_534;

/// Run by the tests below, as another user or under another umask.
#[tokio::test]
async fn child() {
    let Ok(task) = std::env::var("LOCK_FILE_CHILD") else { return };
    let dir = PathBuf::from(std::env::var_os("LOCK_FILE_DIR").unwrap());
    match task.as_str() {
        "share" => {
            let backend = lock_file::backend(&dir, FileOptions::new().group(NOBODY)).unwrap();
            let client = Client::open(&backend, LONG).await;
            assert!(matches!(client.claim("held", 1, false).await, lock_core::Claimed::Busy(_)));
            client.take("free", 2).await;
            client.take("mine", 3).await;
            client.release("free", 2).await;
        }
        "denied" => {
            let error = refused(&dir, FileOptions::new());
            assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
        }
        "make shards" => make_shards(dir).await,
        other => panic!("{other}"),
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    for unsafe_mode in [0o720, 0o702, 0o777] {
        chmod(&place.path(), unsafe_mode);
        let error = refused(place.path(), FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }
    chmod(&place.path(), 0o755);
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    chmod(&place.path().join("keys"), 0o777);
    assert_eq!(*refused(place.path(), FileOptions::new()).kind(), ErrorKind::Denied);
}

#[test]
fn another_users_directory_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    std::os::unix::fs::chown(place.path(), Some(NOBODY), None).unwrap();
    let error = refused(place.path(), FileOptions::new());
    assert_eq!(*error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("65534"), "{error}");
}

#[test]
fn a_directory_that_may_not_be_opened_is_denied() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    run_child_by("denied", &place.path(), Some(NOBODY), &[]);
}

#[test]
fn whoever_may_read_the_directory_cannot_lock_it() {
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    chmod(&place.path(), 0o755);
    // As any user can do then.
    let anybodys = std::fs::File::open(place.path()).unwrap();
    flock(&anybodys, FlockOperation::NonBlockingLockExclusive).unwrap();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    for half in ["keys", "sessions"] {
        chmod(&place.path().join(half), 0o755);
        let error = refused(place.path(), FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(half) && error.to_string().contains("chmod 700"), "{error}");
        chmod(&place.path().join(half), 0o700);
    }
    FileStore::open(place.path(), FileOptions::new()).unwrap();
}

#[tokio::test]
async fn a_group_shares_a_directory_whatever_its_umask() {
    if !is_root() {
        return;
    }
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let path = dir.path().join("locks");
    let backend = lock_file::backend(&path, FileOptions::new().group(NOBODY)).unwrap();
    assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().gid()), (0o2770, NOBODY));
    let client = Client::open(&backend, LONG).await;
    client.take("held", 1).await;
    run_child_by("share", &path, Some(NOBODY), &[]);
    // A file that the other user made, and a session that it left behind.
    client.take("free", 2).await;
    client.take("mine", 3).await;
    // Without the option it is a directory that others can write to.
    assert_eq!(*refused(&path, FileOptions::new()).kind(), ErrorKind::Denied);
    chmod(&path, 0o770);
    assert!(refused(&path, FileOptions::new().group(NOBODY)).to_string().contains("2770"));
}

fn own_group() -> FileOptions {
    FileOptions::new().group(getegid().as_raw())
}

#[test]
fn no_directory_of_a_group_is_ever_seen_closed() {
    let place = Place::new();
    // Under it, a directory is closed to the group until it is given its mode.
    run_child_by("make shards", &place.path(), None, &["sh", "-c", "umask 077; exec \"$@\"", "sh"]);
}

/// Makes all the shards while somebody looks on.
async fn make_shards(path: PathBuf) {
    let backend = lock_file::backend(&path, own_group()).unwrap();
    let client = Client::open(&backend, LONG).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, keys) = (stop.clone(), path.join("keys"));
    let looking = std::thread::spawn(move || {
        let mut closed = 0;
        while !stopped.load(Ordering::Relaxed) {
            for shard in std::fs::read_dir(&keys).unwrap().flatten() {
                let in_place = !shard.file_name().as_encoded_bytes().starts_with(b"~");
                let mode = shard.metadata().map(|stat| stat.mode() & 0o7777);
                closed += usize::from(in_place && mode.is_ok_and(|mode| mode != 0o2770));
            }
        }
        closed
    });
    for ticket in 1..=2000 {
        client.take(&format!("k{ticket}"), ticket).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(looking.join().unwrap(), 0);
    assert_eq!(std::fs::read_dir(path.join("keys")).unwrap().count(), 256);
}

#[tokio::test]
async fn a_shard_that_was_left_closed_to_the_group_is_opened() {
    let place = Place::new();
    let client = Client::open(&place.backend_with(own_group()), LONG).await;
    client.take("k", 1).await;
    let file = place.key_files().remove(0);
    let shard = file.parent().unwrap();
    std::fs::remove_file(&file).unwrap();
    chmod(shard, 0o2700);
    client.take("k", 2).await;
    assert_eq!(mode(shard), 0o2770);
}

#[test]
fn the_missing_parents_of_a_groups_directory_are_not_made() {
    let place = Place::new();
    let error = refused(place.path().join("a/b"), own_group());
    assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("make its parents first"), "{error}");
    assert!(!place.path().exists());
    FileStore::open(place.path(), own_group()).unwrap();
    assert_eq!(mode(&place.path()), 0o2770);
}
