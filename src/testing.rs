//! For an application's own tests: a client, and the control of its store.
//!
//! ```
//! use std::time::Duration;
//!
//! use fencepost::{End, HoldState, Reason, testing};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> fencepost::Result<()> {
//! let (client, control) = testing::memory()?;
//! let guard = client.mutex("nightly-report")?.acquire().await?;
//!
//! // Time is Tokio's: a test that is paused waits for nothing.
//! tokio::time::sleep(Duration::from_secs(3600)).await;
//! assert!(guard.state().is_held(), "it was renewed");
//!
//! control.expire();
//! assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
//! # Ok(())
//! # }
//! ```
//!
//! Needs the feature `testing`, for development only.

use std::sync::Arc;

pub use lock_core::testing::TokioClock;
use lock_core::testing::{Fault, Wire};
use lock_core::{
    Backend, Effect, ErrorKind, Event, HolderState, LockClient, LockClientBuilder, LockKey, MemoryBackend,
    Operation, Query, Reason, Result,
};

/// A client of a store in memory, and the control of both.
///
/// # Errors
/// Outside a Tokio runtime.
pub fn memory() -> Result<(LockClient, Control)> {
    let clock = TokioClock::new();
    let store = MemoryBackend::with_clock(Arc::new(clock));
    let control = Control { wire: Wire::new(Arc::new(clock)), clock, store };
    let client = control.builder(control.wire.to(control.store.clone())).name("under test").build()?;
    Ok((client, control))
}

/// What a test does to a store and to the way there. Clones control the same store.
#[derive(Clone, Debug)]
pub struct Control {
    clock: TokioClock,
    store: Arc<MemoryBackend>,
    wire: Wire,
}

impl Control {
    /// Another client of the same store, which nothing happens to: whom the one under test competes with.
    ///
    /// # Errors
    /// Outside a Tokio runtime.
    pub fn another(&self) -> Result<LockClient> {
        self.builder(self.store.clone()).name("another").build()
    }

    /// Lets the sessions of the client under test run out, as after a pause that was longer than their TTL: everything it
    /// holds is lost ([`Reason::Expired`]) and free for others; its waiters fail. The next acquire opens a new session.
    pub fn expire(&self) {
        for (id, _) in self.wire.sessions() {
            self.store.end_session(id);
        }
        self.wire.send(&Event::Lost(Reason::Expired));
    }

    /// Ends whatever is held of a key by force ([`Reason::Revoked`]), and returns how many holds that were.
    ///
    /// # Errors
    /// For a key that is none.
    pub async fn revoke<K: TryInto<LockKey>>(&self, key: K) -> Result<usize>
    where
        lock_core::Error: From<K::Error>,
    {
        self.store.force_release(&key.try_into()?, None).await
    }

    /// Has the next call of this kind from the client under test fail with this kind of error: after it was applied where
    /// the effect is [`Effect::Unknown`], and instead of it otherwise. Calls are [`Operation::Open`], [`Operation::Claim`],
    /// [`Operation::Release`], [`Operation::Renew`] and [`Operation::Close`]; others do not fail here.
    pub fn fail_next(&self, operation: Operation, kind: ErrorKind, effect: Effect) {
        self.wire.fail(operation, [Fault::Error(kind, effect)]);
    }

    /// Cuts the client under test off from the store: no call is answered until [`heal`](Control::heal).
    pub fn cut_off(&self) {
        self.wire.cut();
    }

    /// Lets calls through again, and forgets those that were to fail.
    pub fn heal(&self) {
        self.wire.heal();
    }

    /// Who holds what at this instant, in the order of the keys.
    ///
    /// # Errors
    /// Never in this store.
    pub async fn holders(&self) -> Result<Vec<(LockKey, HolderState)>> {
        let page = self.store.list(&Query::new(None, "", usize::MAX)).await?;
        let mut holders = Vec::new();
        for key in page.keys {
            let state = self.store.inspect(&key).await?;
            holders.extend(state.holders.into_iter().map(|holder| (key.clone(), holder)));
        }
        Ok(holders)
    }

    fn builder(&self, backend: Arc<dyn Backend>) -> LockClientBuilder {
        LockClient::builder(backend).clock(Arc::new(self.clock))
    }
}
