//! The directory itself: whose it may be, on what it may lie, and what the errors say.
//!
//! What needs root (other users, mounts) is skipped without it, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place, mutex};
use lock_core::{Clock, Connector, Error, ErrorKind, Severity, StoreUrl, SystemClock, VirtualClock};
use lock_file::{FileConnector, FileOptions, FileStore};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

const NOBODY: u32 = 65_534;

fn refused(path: impl AsRef<Path>, options: FileOptions) -> Error {
    FileStore::open(path, options).expect_err("it was opened")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

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
fn a_file_in_its_place_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(*refused(file.path(), FileOptions::new()).kind(), ErrorKind::Misconfigured);
}

/// Run as another user by the test below.
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

fn run_child(task: &str, dir: &Path, user: Option<u32>) {
    run_child_by(task, dir, user, &[]);
}

fn run_child_by(task: &str, dir: &Path, user: Option<u32>, wrapper: &[&str]) {
    // Where everybody may read it.
    let copy = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = copy.path().join("child");
    // By another process: a descriptor of ours, open for writing, could leak into what other tests start meanwhile.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    let program = program.to_str().unwrap();
    let words: Vec<_> = wrapper.iter().copied().chain([program, "--exact", "child"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("LOCK_FILE_CHILD", task).env("LOCK_FILE_DIR", dir);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
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
    run_child("share", &path, Some(NOBODY));
    // A file that the other user made, and a session that it left behind.
    client.take("free", 2).await;
    client.take("mine", 3).await;
    // Without the option it is a directory that others can write to.
    assert_eq!(*refused(&path, FileOptions::new()).kind(), ErrorKind::Denied);
    chmod(&path, 0o770);
    assert!(refused(&path, FileOptions::new().group(NOBODY)).to_string().contains("2770"));
}

#[test]
fn a_directory_that_may_not_be_opened_is_denied() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    run_child("denied", &place.path(), Some(NOBODY));
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
    run_child("descriptors", &Place::new().path(), None);
}

/// A file system of its own.
struct Mount(tempfile::TempDir);

impl Mount {
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn new(kind: &str, options: &str) -> Option<Mount> {
        let mount = Mount(tempfile::tempdir().unwrap());
        let done = is_root()
            && Command::new("mount")
                .args(["-t", kind, "-o", options, kind])
                .arg(mount.0.path())
                .status()
                .is_ok_and(|s| s.success());
        if !done {
            eprintln!("skipped: nothing may be mounted here");
        }
        done.then_some(mount)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("locks")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn an_unknown_file_system_is_refused_or_reported() {
    let Some(mount) = Mount::new("ramfs", "mode=755") else { return };
    let error = refused(mount.path(), FileOptions::new());
    assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("unsafe_fs"), "{error}");
    let backend = lock_file::backend(mount.path(), FileOptions::new().unsafe_fs(true)).unwrap();
    let findings = backend.probe().await.unwrap();
    assert!(matches!(&findings[..], [finding] if finding.severity == Severity::Unsafe));
    assert!(Place::new().backend().probe().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_full_or_read_only_file_system_is_exhausted() {
    let Some(mount) = Mount::new("tmpfs", "size=128k") else { return };
    let backend = lock_file::backend(mount.path(), FileOptions::new()).unwrap();
    let client = Client::open(&backend, LONG).await;
    let mut ticket = 0;
    let error = loop {
        ticket += 1;
        match client.session.claim(&mutex(&format!("k{ticket}"), ticket)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(*error.kind(), ErrorKind::Exhausted, "{error}");
    // Whatever is held can be given back and is renewed.
    client.session.renew(&[]).await.unwrap();
    client.release("k1", 1).await;
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status();
    if remounted.is_ok_and(|status| status.success()) {
        let error = refused(mount.path().join("new"), FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Exhausted, "{error}");
    }
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
