//! One suite that holds every lock store to its promises: those of this project, and anybody else's.
//!
//! A store's crate has a test target of its own, which makes a store for each scenario and says what it promises:
//!
//! ```toml
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use lock_conformance::{Fixture, Promises, Suite};
//! use lock_core::{Backend, MemoryBackend, Result, async_trait};
//!
//! struct Mine(Arc<MemoryBackend>);
//!
//! #[async_trait]
//! impl Fixture for Mine {
//!     async fn backend(&self) -> Result<Arc<dyn Backend>> {
//!         Ok(self.0.clone())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Suite::new("mine", || async { Ok(Mine(MemoryBackend::new())) })
//!         .promises(Promises::all().not_applicable(67, "lives in one process"))
//!         .main()
//! }
//! ```
//!
//! - [`Fixture`]: the store, and the hooks by which the suite does things to it behind its clients' back.
//! - [`Remote`]: the same for a store that is a server: what its process and the network can suffer.
//! - [`Promises`]: the scenarios that it survives only in a weaker way, or that cannot happen to it.
//! - [`oracle`]: random commands, through a store and through the lock table alone.
//! - [`history`]: recording what clients believe, and checking whether that can have been.
//! - [`Wire`] and [`SkewedClock`]: any backend behind calls that fail, and a clock that steps.
//! - [`servers`]: real servers for the tests of stores that need one, which can be killed, stopped and started again.
//! - [`tls`]: what a store that speaks TLS is held to.
//! - [`proxy`]: the network between a client and such a server, and what can go wrong with it.
//!
//! The scenarios and the broken stores that the suite has to catch stand in `docs/conformance.md`.

#![forbid(unsafe_code)]

mod case;
mod child;
mod counter;
mod fixture;
pub mod history;
pub mod oracle;
mod promises;
pub mod proxy;
mod remote;
mod runtime;
mod scenarios;
mod scene;
pub mod servers;
mod skew;
mod suite;
mod timed;
pub mod tls;
mod traces;
mod verdict;

pub use self::fixture::Fixture;
pub use self::promises::{MATRIX, Promise, Promises, Row, rows};
pub use self::remote::{CONNECT_TIMEOUT, Impairment, Impostor, Loss, Remote};
pub use self::skew::SkewedClock;
pub use self::suite::{Suite, scenarios};
pub use self::verdict::{Failure, Verdict};
/// Any backend, behind calls, replies and events that can be made to go wrong.
pub use lock_core::testing::{Fault, Wire};
