//! The directory itself: whose it may be, on what it may lie, and what the errors say.
//!
//! What needs root (other users, mounts) is skipped without it, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place, is_root, mode, mutex, refused, run_child_by};
use lock_core::{Clock, Connector, Error, ErrorKind, StoreUrl, SystemClock, VirtualClock};
use lock_file::{FileConnector, FileOptions, FileStore};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::test]
async fn a_missing_directory_is_made_for_its_user_alone() {
    let place = Place::new();
    let path = place.path().join("a/b");
    let backend = lock_file::backend(&path, FileOptions::new()).unwrap();
    assert_eq!(backend.info().endpoint, format!("file://{}", path.display()));
    Client::open(&backend, LONG).await.take("k", 1).await;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for entry in ["keys", "sessions"] {
        assert_eq!(mode(&path.join(entry)), 0o700);
    }
    for file in place.files() {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

/// What is below /proc is nobody's to make. It does not pass, so that nobody should try again.
#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    for path in ["/proc/x", "/proc/nope/x"] {
        let error = refused(path, FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("cannot be made there"), "{error}");
    }
}

#[test]
fn a_symbolic_link_is_refused() {
    let place = Place::new();
    let target = place.path();
    FileStore::open(&target, FileOptions::new()).unwrap();
    let link = target.with_file_name("link");
    symlink(&target, &link).unwrap();
    let error = refused(&link, FileOptions::new());
    assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("symbolic link"), "{error}");
    // A slash at its end would follow it.
    for path in [format!("{}/", link.display()), format!("{}/.", link.display())] {
        assert_eq!(*refused(path, FileOptions::new()).kind(), ErrorKind::Misconfigured);
    }
    for half in ["keys", "sessions"] {
        let path = target.join(half);
        std::fs::rename(&path, target.join("aside")).unwrap();
        symlink(target.join("aside"), &path).unwrap();
        assert_eq!(*refused(&target, FileOptions::new()).kind(), ErrorKind::Misconfigured, "{half}");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(target.join("aside"), &path).unwrap();
    }
    FileStore::open(&target, FileOptions::new()).unwrap();
}

#[tokio::test]
async fn a_link_in_the_place_of_a_key_is_not_followed() {
    let place = Place::new();
    let client = Client::open(&place.backend(), LONG).await;
    client.take("k", 1).await;
    let file = place.key_files().remove(0);
    let aside = place.path().join("aside");
    for victim in [file.clone(), file.parent().unwrap().to_owned()] {
        std::fs::rename(&victim, &aside).unwrap();
        symlink(&aside, &victim).unwrap();
        let other = Client::open(&place.backend(), LONG).await;
        let error = other.session.claim(&mutex("k", 1)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
        std::fs::remove_file(&victim).unwrap();
        std::fs::rename(&aside, &victim).unwrap();
    }
}

#[test]
fn a_file_in_its_place_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(*refused(file.path(), FileOptions::new()).kind(), ErrorKind::Misconfigured);
}

/// Run by the tests below, under a wrapper or with limits of its own.
#[tokio::test]
async fn child() {
    let Ok(task) = std::env::var("LOCK_FILE_CHILD") else { return };
    let dir = PathBuf::from(std::env::var_os("LOCK_FILE_DIR").unwrap());
    match task.as_str() {
        "elsewhen" => {
            let error = refused(&dir, FileOptions::new());
            assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
            assert!(error.to_string().contains("time namespace"), "{error}");
        }
        "descriptors" => {
            let backend = lock_file::backend(&dir, FileOptions::new()).unwrap();
            let client = Client::open(&backend, LONG).await;
            let used = common::descriptors() as u64;
            let limit = Rlimit { current: Some(used), maximum: getrlimit(Resource::Nofile).maximum };
            setrlimit(Resource::Nofile, limit).unwrap();
            let mut spare: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
            let error = client.session.claim(&mutex("k", 1)).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("ulimit"), "{error}");
            // What is open already needs no more: the session goes on.
            client.session.renew(&[]).await.unwrap();
            spare.clear();
            let limit = Rlimit { current: Some(used + 50), ..limit };
            setrlimit(Resource::Nofile, limit).unwrap();
            client.take("k", 1).await;
        }
        other => panic!("{other}"),
    }
}

#[test]
fn another_time_namespace_is_refused() {
    let elsewhen = ["unshare", "--time", "--fork", "--boottime", "1000"];
    let works = is_root()
        && Command::new(elsewhen[0]).args(&elsewhen[1..]).arg("true").status().is_ok_and(|s| s.success());
    if !works {
        return;
    }
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    run_child_by("elsewhen", &place.path(), None, &elsewhen);
    // It changed nothing.
    FileStore::open(place.path(), FileOptions::new()).unwrap();
}

#[test]
fn without_descriptors_the_error_says_what_to_raise() {
    run_child_by("descriptors", &Place::new().path(), None, &[]);
}

#[tokio::test]
async fn a_directory_that_was_replaced_ends_its_sessions() {
    let place = Place::new();
    let backend = place.backend();
    let client = Client::open(&backend, LONG).await;
    client.session.renew(&[]).await.unwrap();
    std::fs::rename(place.path(), place.path().with_file_name("aside")).unwrap();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    let error = client.session.renew(&[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
}

#[tokio::test]
async fn a_store_file_that_was_moved_away_ends_sessions() {
    let place = Place::new();
    let backend = place.backend();
    let client = Client::open(&backend, LONG).await;
    std::fs::rename(place.path().join("store"), place.path().join("aside")).unwrap();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    let error = client.session.renew(&[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
}

#[tokio::test]
async fn whoever_closes_leaves_a_new_store_file_alone() {
    let place = Place::new();
    let clock = VirtualClock::new();
    // After the files' own times, so that idle ones are swept.
    clock
        .advance(Duration::from_micros(SystemClock::new().wall_micros() - clock.wall_micros() + 120_000_000));
    let options = FileOptions::new().clock(Arc::new(clock.clone())).boot_id("x").idle_after(Duration::ZERO);
    let old = place.backend_with(options.clone());
    // Enough to sweep every shard when they are closed.
    let mut clients = Vec::new();
    for _ in 0..256 {
        clients.push(Client::open(&old, LONG).await);
    }
    clients[0].take("idle", 1).await;
    clients[0].release("idle", 1).await;
    clock.advance(Duration::from_millis(5));
    // The wall clock was set since this boot's first opening, and somebody removes the file.
    clock.step_wall(3_600_000_000);
    std::fs::remove_file(place.path().join("store")).unwrap();
    let new = place.backend_with(options.clone());
    for client in clients {
        client.session.close().await.unwrap();
    }
    let newer = place.backend_with(options);
    let holder = Client::open(&newer, LONG).await;
    holder.take("k", 1).await;
    let second = Client::open(&new, LONG).await;
    let claimed = second.claim("k", 1, false).await;
    assert!(matches!(claimed, lock_core::Claimed::Busy(_)), "a living session holds it, and {claimed:?}");
}

#[tokio::test]
async fn a_url_names_a_directory() {
    let place = Place::new();
    let connector = FileConnector::new();
    let connect = async |text: String| {
        let mut url = StoreUrl::parse(&text).unwrap();
        let backend = connector.connect(&mut url).await?;
        url.finish()?;
        Ok::<_, Error>(backend)
    };
    let path = place.path().display().to_string();
    connect(format!("file://{path}?unsafe_fs=true")).await.unwrap();
    assert_eq!(connector.schemes(), ["file"]);
    for wrong in [
        "file://host/dir",
        "file:relative",
        "file:",
        "file:///tmp?group=no-such-group",
        "file:///tmp?group=4294967295",
        "file:///tmp?unsafe_fs=1",
    ] {
        let error = connect(wrong.to_owned()).await.expect_err(wrong);
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{wrong}: {error}");
    }
    let error = connect(format!("file://{path}?unsfe_fs=true")).await.unwrap_err();
    assert!(error.to_string().contains("group, unsafe_fs"), "{error}");
}

#[tokio::test]
async fn another_boot_is_noticed_once() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let options = |boot: &str| FileOptions::new().clock(Arc::new(clock.clone())).boot_id(boot);
    FileStore::open(place.path(), options("a")).unwrap();
    let before = std::fs::read(place.path().join("store")).unwrap();
    FileStore::open(place.path(), options("a")).unwrap();
    assert_eq!(std::fs::read(place.path().join("store")).unwrap(), before);
    FileStore::open(place.path(), options("b")).unwrap();
    assert_ne!(std::fs::read(place.path().join("store")).unwrap(), before);
}
