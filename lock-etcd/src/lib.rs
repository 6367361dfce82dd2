//! Locks in etcd 3.4 or later, for fencepost.
//!
//! One transaction to acquire, one to release; first come, first served; a token is the revision at which its claim was made.
//! What is promised and what is not stands in `docs/backends/etcd.md`. Building it takes `protoc`, for the driver.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backend;
mod claim;
mod connector;
mod entry;
mod failure;
mod fence;
mod fenced;
mod link;
mod names;
mod options;
mod place;
mod probe;
mod queue;
mod session;
mod sight;
mod watch;

/// The driver, in the version that this crate is built with.
pub use etcd_client;
pub use lock_core::Refused;

pub use self::connector::EtcdConnector;
pub use self::fence::stands;
pub use self::fenced::FencedWrites;
pub use self::options::EtcdOptions;
