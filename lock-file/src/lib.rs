//! Locks kept in a directory of one Linux host: no server, safe between processes.
//!
//! Each key is one small file, each session a record and a named pipe that its process keeps open. The kernel closes
//! the pipe when the process ends, however it ends; so the locks of a killed process are free at once, and those of a
//! stopped one at the end of its lease. What is promised and what is not stands in `docs/backends/file.md`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lock_core::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("locks");
//! use lock_file::FileOptions;
//!
//! let backend = lock_file::backend(&path, FileOptions::new())?;
//! assert_eq!(backend.info().scheme, "file");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "lock-file works on Linux only: it rests on named pipes, flock and CLOCK_BOOTTIME as Linux has them"
);

mod connector;
mod directory;
mod epoch;
mod failure;
mod filesystem;
mod flock;
mod keys;
mod options;
mod session;
mod slot_file;
mod slots;
mod store;
mod temporary;

use std::path::Path;
use std::sync::Arc;

use lock_core::records::Records;
use lock_core::{Backend, Result};

pub use self::connector::FileConnector;
pub use self::options::FileOptions;
pub use self::store::FileStore;

/// A backend over the store in this directory, which is made if it is missing.
///
/// # Errors
/// As [`FileStore::open`].
pub fn backend(path: impl AsRef<Path>, options: FileOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Records::new(FileStore::open(path, options)?)))
}
