//! The file store, held to its promises: each scenario in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::{Fixture, Promises, SkewedClock, Suite};
use lock_core::records::RecordStore;
use lock_core::table::KeyRecord;
use lock_core::{Backend, LockKey, Result, async_trait};
use lock_file::{FileOptions, FileStore};

/// A directory on a machine that can be started again.
struct Directory {
    clock: SkewedClock,
    dir: tempfile::TempDir,
    boots: AtomicUsize,
}

impl Directory {
    fn path(&self) -> PathBuf {
        self.dir.path().join("locks")
    }

    fn options(&self) -> FileOptions {
        let options =
            FileOptions::new().clock(Arc::new(self.clock.clone())).idle_after(Duration::from_millis(50));
        match self.boots.load(Ordering::SeqCst) {
            // That of this machine, which a child process sees too.
            0 => options,
            boot => options.boot_id(format!("boot {boot}")),
        }
    }
}

#[async_trait]
impl Fixture for Directory {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        lock_file::backend(self.path(), self.options())
    }

    fn address(&self) -> Option<String> {
        self.path().to_str().map(str::to_owned)
    }

    fn clock(&self) -> Option<SkewedClock> {
        Some(self.clock.clone())
    }

    /// Somebody removes the key's file.
    async fn forget(&self, key: &LockKey) -> Result<()> {
        let of_key = |path: &PathBuf| path.file_name().is_some_and(|name| *name == *key.encoded());
        for file in files(&self.path().join("keys")).into_iter().filter(of_key) {
            std::fs::remove_file(file).map_err(|error| lock_core::Error::unavailable(error.to_string()))?;
        }
        Ok(())
    }

    async fn set_fence(&self, key: &LockKey, token: u64) -> Result<()> {
        let store = FileStore::open(self.path(), self.options())?;
        let current = store.read(key).await?;
        store.write(key, current.version, &KeyRecord::with_fence(token).encode()).await.map(|_| ())
    }

    async fn size(&self) -> Result<Option<usize>> {
        Ok(Some(files(&self.path().join("sessions")).len()))
    }

    /// There is no server: it is the machine that starts again.
    async fn restart(&self) -> Result<()> {
        self.boots.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn main() -> ExitCode {
    let start = || async {
        let dir = tempfile::tempdir().map_err(|error| lock_core::Error::unavailable(error.to_string()))?;
        Ok(Directory { clock: SkewedClock::new(), dir, boots: AtomicUsize::new(0) })
    };
    Suite::new("file", start)
        .promises(Promises::of_this_project("file"))
        .children(|path| async move { lock_file::backend(path, FileOptions::new()) })
        .main()
}
