//! The contract, the engine and the lock table of fencepost.
//!
//! Applications depend on `fencepost`, which re-exports what they need. This crate is for whoever writes a store of
//! their own or reads how the others work.
//!
//! A store of one's own begins with a choice:
//!
//! - It can replace a record if nobody else was quicker: implement [`records::RecordStore`], some 150 lines. The
//!   [`table`] runs in the client and brings queue, tokens, readers-writer locks and semaphores.
//! - It runs scripts or functions, or has an order of its own: implement [`Backend`] and [`Session`]. What stores of the second kind
//!   have in common is in [`queue`].
//!
//! Either is reached by URL through a [`Connector`], or directly by [`LockClient::builder`]. The programs `own_store` and
//! `own_backend` among the project's examples are one of each.

#![forbid(unsafe_code)]

mod backend;
mod client;
mod clock;
mod connect;
mod contract;
mod engine;
mod error;
mod fence;
mod hold;
mod holder;
mod key;
mod memory;
mod mode;
mod options;
mod retry;
mod token;

pub mod queue;
pub mod records;
pub mod table;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::backend::{
    Backend, BackendInfo, Capabilities, Certainty, Claim, ClaimRef, Claimed, Cursor, Domain, Event,
    EventSink, Failover, Fencing, Finding, HolderState, Liveness, LockState, Opened, Page, Proof, Query,
    Released, Renewal, Session, SessionId, SessionOptions, Severity, Standing, Term, Ticket, WaiterState,
};
pub use self::client::{Detached, Guard, Held, Lock, LockClient, LockClientBuilder, Ran, RwLock, Semaphore};
pub use self::clock::{BootTime, Clock, Pause, SystemClock, VirtualClock, within};
pub use self::connect::{Connector, Host, StoreUrl};
pub use self::contract::{DistributedLock, Ending, Grant, LockGuard};
pub use self::error::{Effect, Error, ErrorKind, Operation, Result};
pub use self::fence::{Fence, Refused, Stale};
pub use self::hold::{Busy, End, HoldState, Lost, Reason};
pub use self::holder::{HolderInfo, Note};
pub use self::key::{LockKey, Prefix};
pub use self::memory::{MemoryBackend, MemoryConnector};
pub use self::mode::{Mode, Permit};
pub use self::options::{AcquireOptions, Wait};
pub use self::retry::RetryPolicy;
pub use self::token::FencingToken;
/// What implementations of this crate's traits are written under.
pub use async_trait::async_trait;
/// A text that `Debug` does not show, and the trait by which it is read.
pub use secrecy::{ExposeSecret, SecretString as Secret};
