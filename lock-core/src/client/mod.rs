//! What applications use: [`LockClient`], the [`Lock`]s it makes and the [`Guard`]s they give.

mod builder;
mod detached;
mod guard;
mod lock;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::LockClientBuilder;
pub use self::detached::Detached;
pub use self::guard::{Guard, Held};
pub use self::lock::{Lock, RwLock, Semaphore};
pub use self::run::Ran;
use crate::backend::{Backend, BackendInfo, Finding, LockState, Page, Query};
use crate::engine::{Caller, Engine};
use crate::error::{Error, Operation, Result};
use crate::key::LockKey;
use crate::mode::{Mode, Permit};
use crate::token::FencingToken;

/// A client of one store: what an application makes once and injects where locks are needed.
///
/// Cheap to clone; clones share their sessions. When the last clone and the last guard are gone, the sessions close.
///
/// ```
/// use lock_core::{LockClient, MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// let client = LockClient::builder(MemoryBackend::new()).build()?;
/// let guard = client.mutex("nightly-report")?.acquire().await?;
/// println!("held under fencing token {}", guard.token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LockClient {
    engine: Arc<Engine>,
}

impl LockClient {
    /// Builds a client of a backend. Nothing is sent before the first lock is asked for.
    pub fn builder(backend: Arc<dyn Backend>) -> LockClientBuilder {
        LockClientBuilder::new(backend)
    }

    /// A mutex: one holder at a time.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a key that is none.
    pub fn mutex<K: TryInto<LockKey>>(&self, key: K) -> Result<Lock>
    where
        Error: From<K::Error>,
    {
        Ok(Lock::new(self.engine.clone(), key.try_into()?, Mode::Exclusive, Permit::MUTEX))
    }

    /// A readers-writer lock: many readers or one writer, in the order in which they came.
    ///
    /// # Errors
    /// As [`LockClient::mutex`].
    pub fn rw_lock<K: TryInto<LockKey>>(&self, key: K) -> Result<RwLock>
    where
        Error: From<K::Error>,
    {
        Ok(RwLock::new(self.engine.clone(), key.try_into()?))
    }

    /// A semaphore of `capacity` permits. Every client of the key has to name the same capacity while it is in use.
    ///
    /// # Errors
    /// As [`LockClient::mutex`], and for a capacity of zero.
    pub fn semaphore<K: TryInto<LockKey>>(&self, key: K, capacity: u32) -> Result<Semaphore>
    where
        Error: From<K::Error>,
    {
        Semaphore::new(self.engine.clone(), key.try_into()?, capacity)
    }

    /// Who holds a key and who waits for it. Changes nothing.
    ///
    /// # Errors
    /// As [`LockClient::mutex`], and what the store has to say.
    pub async fn inspect<K: TryInto<LockKey>>(&self, key: K) -> Result<LockState>
    where
        Error: From<K::Error>,
    {
        let core = self.engine.core();
        let name = key.try_into()?;
        let key = name.under(core.settings.prefix.as_ref());
        let mut state =
            Caller::new(core, Operation::Inspect).on(&key).call(core.backend.inspect(&key)).await?;
        state.key = name;
        Ok(state)
    }

    /// Keys under this client's prefix that are held or waited for and begin with a text, page by page.
    ///
    /// # Errors
    /// What the store has to say.
    pub async fn list(
        &self,
        starting_with: &str,
        after: Option<crate::Cursor>,
        limit: usize,
    ) -> Result<Page> {
        let core = self.engine.core();
        let query = Query::new(core.settings.prefix.clone(), starting_with, limit).after(after);
        let mut page = Caller::new(core, Operation::List).call(core.backend.list(&query)).await?;
        for key in &mut page.keys {
            *key = key.under(None);
        }
        Ok(page)
    }

    /// Ends the holds of a key, whoever owns them, or only the one with this token; returns how many it ended.
    ///
    /// The holders are told, and the next token still rises; but a holder that cannot be told goes on until it looks.
    /// Only a resource that checks tokens is safe from it.
    ///
    /// # Errors
    /// As [`LockClient::inspect`].
    pub async fn force_release<K: TryInto<LockKey>>(
        &self,
        key: K,
        only: Option<FencingToken>,
    ) -> Result<usize>
    where
        Error: From<K::Error>,
    {
        let core = self.engine.core();
        let key = key.try_into()?.under(core.settings.prefix.as_ref());
        Caller::new(core, Operation::ForceRelease).on(&key).call(core.backend.force_release(&key, only)).await
    }

    /// What the store's settings mean for its locks: nothing found is good news.
    ///
    /// # Errors
    /// What the store has to say.
    pub async fn probe(&self) -> Result<Vec<Finding>> {
        let core = self.engine.core();
        Caller::new(core, Operation::Probe).call(core.backend.probe()).await
    }

    /// Opens the session that the first lock would open: so that an unreachable store is found out at start.
    ///
    /// # Errors
    /// What the store has to say, once the retry policy gives up.
    pub async fn open(&self) -> Result<()> {
        self.engine.open().await
    }

    /// As [`open`](LockClient::open), for at most this long.
    ///
    /// # Errors
    /// Why the last attempt failed, if one has.
    pub async fn open_within(&self, limit: Duration) -> Result<()> {
        self.engine.open_within(limit).await
    }

    /// The store's name and promises.
    pub fn info(&self) -> &BackendInfo {
        &self.engine.core().info
    }

    /// The TTL in force: what the store answered, once a session is open, and what was asked for before.
    pub fn ttl(&self) -> Duration {
        self.engine.ttl()
    }

    /// Ends this client and all its clones within a time.
    ///
    /// New acquires and waiters get [`ShutDown`](crate::ErrorKind::ShutDown), live guards are released
    /// (`Lost(ShutDown)`), releases under way are waited for, sessions closed. Returns the keys of which no release was
    /// acknowledged in time; the TTL answers for those.
    ///
    /// # Cancel Safety
    /// Dropping the future stops the waiting; the client stays shut.
    pub async fn shutdown(&self, within: Duration) -> Vec<LockKey> {
        let left = self.engine.shutdown(within).await;
        left.iter().map(|key| key.under(None)).collect()
    }
}

impl fmt::Debug for LockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockClient").field("store", &self.info().endpoint).finish_non_exhaustive()
    }
}
