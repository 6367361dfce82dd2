//! File systems: which are refused, and what happens on one that is full, read-only or in layers.
//!
//! Each test runs once more in a namespace of its own, where it may mount; where there are none it is skipped, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Client, LONG, Place, mutex, queued, refused};
use lock_core::{Certainty, ErrorKind, Severity};
use lock_file::{FileOptions, FileStore};

/// Whether this is the process in the namespace; runs it if not.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn may_mount(test: &str) -> bool {
    if std::env::var_os("LOCK_FILE_NAMESPACE").is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces here");
        return false;
    }
    let output = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LOCK_FILE_NAMESPACE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert!(output.status.success() && said.contains("1 passed"));
    false
}

#[must_use]
fn mount(kind: &str, options: &str, at: &std::path::Path) -> bool {
    let mount = Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(at).status();
    mount.is_ok_and(|status| status.success())
}

/// A file system of its own.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(kind: &str, options: &str) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        assert!(mount(kind, options, dir.path()));
        Mount(dir)
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
    if !may_mount("an_unknown_file_system_is_refused_or_reported") {
        return;
    }
    let mount = Mount::new("ramfs", "mode=755");
    let error = refused(mount.path(), FileOptions::new());
    assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("unsafe_fs"), "{error}");
    let backend = lock_file::backend(mount.path(), FileOptions::new().unsafe_fs(true)).unwrap();
    let findings = backend.probe().await.unwrap();
    assert!(matches!(&findings[..], [finding] if finding.severity == Severity::Unsafe));
    assert!(Place::new().backend().probe().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_half_on_another_file_system_is_refused() {
    if !may_mount("a_half_on_another_file_system_is_refused") {
        return;
    }
    let place = Place::new();
    FileStore::open(place.path(), FileOptions::new()).unwrap();
    for half in ["keys", "sessions"] {
        let half = place.path().join(half);
        assert!(mount("ramfs", "mode=700", &half));
        let error = refused(place.path(), FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("another file system"), "{error}");
        assert!(Command::new("umount").arg(&half).status().unwrap().success());
    }
    FileStore::open(place.path(), FileOptions::new()).unwrap();
}

#[tokio::test]
async fn on_a_full_file_system_nothing_is_taken_and_what_is_held_goes_on() {
    if !may_mount("on_a_full_file_system_nothing_is_taken_and_what_is_held_goes_on") {
        return;
    }
    let mount = Mount::new("tmpfs", "size=128k");
    let client = Client::open(&lock_file::backend(mount.path(), FileOptions::new()).unwrap(), LONG).await;
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
    for held in 1..ticket {
        client.release(&format!("k{held}"), held).await;
    }
    // And a key that has its file can be taken again.
    client.take("k1", ticket).await;
    // Claims that are withdrawn and may still arrive are noted, until that needs a larger file.
    let error = loop {
        ticket += 1;
        let withdrawn = mutex("k1", ticket).reference();
        match client.session.release(&withdrawn, Certainty::MaybeInFlight).await {
            Ok(_) => assert!(ticket < 10_000, "the record was to outgrow its file"),
            Err(error) => break error,
        }
    };
    assert_eq!(*error.kind(), ErrorKind::Exhausted, "{error}");
    client.session.renew(&[mutex("k1", ticket).reference()]).await.unwrap();
}

#[tokio::test]
async fn on_a_read_only_file_system_nothing_is_opened() {
    if !may_mount("on_a_read_only_file_system_nothing_is_opened") {
        return;
    }
    let mount = Mount::new("tmpfs", "size=128k");
    FileStore::open(mount.path(), FileOptions::new()).unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status();
    assert!(remounted.unwrap().success());
    for path in [mount.path(), mount.path().join("new")] {
        let error = refused(path, FileOptions::new());
        assert_eq!(*error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.to_string().contains("read-only"), "{error}");
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
async fn a_directory_in_the_lower_layer_of_an_overlay_works() {
    if !may_mount("a_directory_in_the_lower_layer_of_an_overlay_works") {
        return;
    }
    let layers = Mount::new("tmpfs", "mode=755");
    let dir = |name: &str| layers.0.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(dir(name)).unwrap();
    }
    // As an image has it that was made from a container in use.
    {
        let backend = lock_file::backend(dir("lower").join("locks"), FileOptions::new()).unwrap();
        Client::open(&backend, LONG).await.take("k", 1).await;
    }
    let (lower, upper, work) = (dir("lower"), dir("upper"), dir("work"));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    if !mount("overlay", &options, &dir("merged")) {
        eprintln!("skipped: no overlay here");
        return;
    }
    let open = || lock_file::backend(dir("merged").join("locks"), FileOptions::new()).unwrap();
    let holder = Client::open(&open(), LONG).await;
    holder.take("k", 1).await;
    holder.session.renew(&[mutex("k", 1).reference()]).await.unwrap();
    let mut other = Client::open(&open(), LONG).await;
    queued(other.claim("k", 1, true).await);
    drop(holder);
    other.acquire("k", 1).await;
    other.session.renew(&[mutex("k", 1).reference()]).await.unwrap();
    let _ = Command::new("umount").arg("-l").arg(dir("merged")).status();
}
