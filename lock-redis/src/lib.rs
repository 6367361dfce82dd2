//! Locks in Redis 7.0 or later, for fencepost.
//!
//! One round trip to acquire, one to release; first come, first served; the next in line is told by the server. A session is a
//! key that expires, a lock is a record beside it, and the rules run in the server as scripts. What is promised and what is
//! not stands in `docs/backends/redis.md`.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lock_core::Result<()> {
//! use lock_core::LockClient;
//! use lock_redis::{RedisOptions, redis};
//!
//! let driver = redis::Client::open("redis://localhost").expect("a URL of the driver's");
//! let client = LockClient::builder(lock_redis::backend(&driver, RedisOptions::new())?).build()?;
//! let guard = client.mutex("nightly-report")?.acquire().await?;
//! println!("token {}", guard.token());
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod address;
mod backend;
mod cluster;
mod connector;
mod dial;
mod ears;
mod entry;
mod failure;
mod fenced;
mod gather;
mod kept;
mod known;
mod link;
mod message;
mod names;
mod options;
mod probe;
mod reply;
mod scripts;
mod sentinel;
mod session;
mod sight;
mod store;
mod tls;

use std::sync::Arc;

pub use lock_core::Refused;
use lock_core::{Backend, Result};
/// The driver, in the version that this crate is built with.
pub use redis;

use self::address::Address;
use self::backend::RedisBackend;
pub use self::connector::RedisConnector;
use self::dial::Target;
pub use self::fenced::{FENCED_WRITE, FencedWrites};
use self::names::Namespace;
pub use self::options::{Credentials, RedisOptions};
use self::store::Store;

/// A backend over the server that a driver's client leads to. Of the client its address and settings are taken, no connection:
/// the store has one of its own, made at the first call.
///
/// # Errors
/// [`InvalidInput`](lock_core::ErrorKind::InvalidInput) for a namespace that cannot be one;
/// [`Misconfigured`](lock_core::ErrorKind::Misconfigured) for files for TLS where the client is one without.
pub fn backend(client: &redis::Client, options: RedisOptions) -> Result<Arc<dyn Backend>> {
    options.tls.suit(Address::is_with_tls(client.get_connection_info()), "rediss")?;
    let namespace = Namespace::new(&options.namespace)?;
    let (target, idle_after) =
        (Target::Server(Box::new(client.get_connection_info().clone())), options.idle_after);
    Ok(Arc::new(RedisBackend::new(Store::one(target, options), namespace, idle_after)))
}
