//! Locks in ZooKeeper 3.6 or later, for fencepost.
//!
//! One round trip to acquire, one to release; first come, first served; a token is the number of the transaction that made its
//! claim. What is promised and what is not stands in `docs/backends/zookeeper.md`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backend;
mod connector;
mod dial;
mod entry;
mod failure;
mod fence;
mod link;
mod names;
mod options;
mod place;
mod probe;
mod session;
mod sight;
mod wire;

use std::sync::Arc;

use lock_core::{Backend, Result};

use self::backend::ZooKeeperBackend;
use self::dial::Dial;

/// The driver, in the version that this crate is built with.
pub use zookeeper_client;

pub use self::connector::ZooKeeperConnector;
pub use self::fence::stands;
pub use self::options::{Access, ZooKeeperOptions};

/// A backend over these servers, `host:port` each: for options that no URL has.
///
/// ```
/// use lock_zookeeper::ZooKeeperOptions;
///
/// # fn main() -> lock_core::Result<()> {
/// let options = ZooKeeperOptions::new().root("billing/locks").digest("locks", "from a vault".to_owned().into());
/// let backend = lock_zookeeper::backend(["z1:2181", "z2:2181", "z3:2181"], options)?;
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
///
/// The driver's own clients cannot stand here: each session of locks is one with the servers, with a time of its own. It connects
/// at the first call.
///
/// # Errors
/// [`InvalidInput`](lock_core::ErrorKind::InvalidInput) for a root that cannot be one;
/// [`Misconfigured`](lock_core::ErrorKind::Misconfigured) for what does not go together, and for files for TLS that cannot be used.
pub fn backend(
    endpoints: impl IntoIterator<Item = impl Into<String>>,
    options: ZooKeeperOptions,
) -> Result<Arc<dyn Backend>> {
    let dial = Dial::new(endpoints.into_iter().map(Into::into).collect(), options)?;
    Ok(Arc::new(ZooKeeperBackend::new(dial)?))
}
