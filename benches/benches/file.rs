//! The file store. Its floor: the descriptor is kept; try the lock, read, write, unlock; twice for a cycle.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_core::Backend;
use lock_file::FileOptions;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{pread, pwrite};

struct Directory(tempfile::TempDir);

fn open(path: &str) -> Arc<dyn Backend> {
    lock_file::backend(path, FileOptions::new()).unwrap()
}

#[async_trait]
impl Subject for Directory {
    fn name(&self) -> &'static str {
        "file"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open(&self.address().unwrap())
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let file = tempfile::NamedTempFile::new_in(self.0.path()).unwrap();
        pwrite(file.as_file(), &[0; 1024], 0).unwrap();
        let other = file.reopen().unwrap();
        let (_, path) = file.keep().unwrap();
        Box::new(Locked { file: File::options().read(true).write(true).open(path).unwrap(), other })
    }

    fn address(&self) -> Option<String> {
        self.0.path().join("locks").to_str().map(str::to_owned)
    }
}

struct Locked {
    file: File,
    /// Of another, who may have it.
    other: File,
}

#[async_trait]
impl Floor for Locked {
    async fn cycle(&mut self) {
        for _ in 0..2 {
            step(&self.file);
        }
    }

    async fn busy(&mut self) {
        step(&self.other);
    }
}

fn step(file: &File) {
    let mut buffer = [0; 1024];
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
    pread(file, &mut buffer[..], 0).unwrap();
    pwrite(file, &buffer[..100], 0).unwrap();
    flock(file.as_fd(), FlockOperation::Unlock).unwrap();
}

fn main() {
    lock_benches::run(|| Box::new(Directory(tempfile::tempdir().unwrap())), open);
}
