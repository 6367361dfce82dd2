//! Locks in etcd 3.4 or later, for fencepost.
//!
//! One transaction to acquire, one to release; first come, first served; a token is the revision at which its claim was made.
//! What is promised and what is not stands in `docs/backends/etcd.md`. Building it takes `protoc`, for the driver.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod ahead;
mod backend;
mod claim;
mod connector;
mod dial;
mod entry;
mod failure;
mod fence;
mod fenced;
mod gather;
mod handshake;
mod lease;
mod link;
mod names;
mod options;
mod place;
mod probe;
mod queue;
mod session;
mod sight;
mod tls;
mod watch;

use std::sync::Arc;

use lock_core::{Backend, Result};

use self::backend::EtcdBackend;
use self::dial::Dial;

/// The driver, in the version that this crate is built with.
pub use etcd_client;
pub use lock_core::Refused;

pub use self::connector::EtcdConnector;
pub use self::fence::stands;
pub use self::fenced::FencedWrites;
pub use self::options::EtcdOptions;

/// A backend over servers that an application reaches with options of its own for the driver: endpoints as
/// `http://e1:2379`, or all of them `https://`.
///
/// ```
/// use lock_etcd::{EtcdOptions, etcd_client::ConnectOptions};
///
/// # fn main() -> lock_core::Result<()> {
/// let driver = ConnectOptions::new().with_user("locks", "from a vault");
/// let endpoints = ["http://e1:2379", "http://e2:2379", "http://e3:2379"];
/// let backend = lock_etcd::backend(endpoints, driver, EtcdOptions::new().root("billing/locks"))?;
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
///
/// Of the driver's options the user and what concerns TLS are taken, where [`EtcdOptions`] say nothing about them, and its
/// timeouts for calls and for TCP; how it keeps a connection alive, and when it asks for a new token, is the store's own
/// affair. The driver shows nobody what is in its `Client`, so that one cannot stand here. It connects at the first call.
///
/// # Errors
/// [`InvalidInput`](lock_core::ErrorKind::InvalidInput) for a root that cannot be one;
/// [`Misconfigured`](lock_core::ErrorKind::Misconfigured) for endpoints that cannot be or do not go together, and for files
/// for TLS that cannot be used.
pub fn backend(
    endpoints: impl IntoIterator<Item = impl Into<String>>,
    driver: etcd_client::ConnectOptions,
    options: EtcdOptions,
) -> Result<Arc<dyn Backend>> {
    let root = options.root.clone();
    let dial = Dial::like(endpoints.into_iter().map(Into::into).collect(), driver, options)?;
    Ok(Arc::new(EtcdBackend::new(dial, &root)?))
}
