//! [`Lock`], and the makers of locks of more than one kind: [`RwLock`] and [`Semaphore`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::guard::Guard;
use crate::backend::Term;
use crate::contract::{DistributedLock, LockGuard};
use crate::engine::{Ask, Engine, Patience, Won};
use crate::error::{Error, Operation, Result};
use crate::hold::Busy;
use crate::key::LockKey;
use crate::mode::{Mode, Permit};
use crate::options::{AcquireOptions, Wait};

/// One lock of a client: a mutex, one side of a readers-writer lock, or some permits of a semaphore.
///
/// Not re-entrant: a second acquire of a key waits for the first, also in one task. First come, first served, where the
/// store says that it is fair.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireOptions, LockClient, MemoryBackend, Wait};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// # let client = LockClient::builder(MemoryBackend::new()).build()?;
/// let migration = client.mutex("migration")?;
/// let options = AcquireOptions::new().wait(Wait::AtMost(Duration::from_secs(300)));
/// let guard = migration.acquire_with(&options).await?;
/// assert!(migration.try_acquire().await?.is_err(), "busy: it is held");
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    engine: Arc<Engine>,
    key: LockKey,
    mode: Mode,
    permit: Permit,
}

impl Lock {
    pub(super) fn new(engine: Arc<Engine>, key: LockKey, mode: Mode, permit: Permit) -> Lock {
        Lock { engine, key, mode, permit }
    }

    /// The lock's name.
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// In which way it is held once it is.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Waits until the lock is granted, for as long as the client's default says; without one, without bound.
    ///
    /// # Errors
    /// [`WaitTimedOut`](crate::ErrorKind::WaitTimedOut) when patience is over;
    /// [`SessionLost`](crate::ErrorKind::SessionLost) when the session ended while it waited; otherwise what the store
    /// had to say.
    ///
    /// # Cancel Safety
    /// Dropping the future withdraws the claim: whatever the store granted meanwhile is released.
    pub async fn acquire(&self) -> Result<Guard> {
        self.acquire_with(&AcquireOptions::new()).await
    }

    /// As [`Lock::acquire`], with options.
    ///
    /// # Errors
    /// As [`Lock::acquire`], and [`InvalidInput`](crate::ErrorKind::InvalidInput) or
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for options that cannot be.
    ///
    /// # Cancel Safety
    /// As [`Lock::acquire`].
    pub async fn acquire_with(&self, options: &AcquireOptions) -> Result<Guard> {
        let ask = self.ask(options, Wait::Unbounded, None)?;
        match self.engine.acquire(&ask).await? {
            Ok(won) => Ok(self.guard(won)),
            Err(busy) => Err(self.timed_out(busy)),
        }
    }

    /// Exactly one attempt, without waiting and without transport retry.
    ///
    /// # Errors
    /// A store that is not reached is an error, never [`Busy`]. After an unknown outcome the claim is released.
    ///
    /// # Cancel Safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Result<Guard, Busy>> {
        self.try_acquire_with(&AcquireOptions::new()).await
    }

    /// As [`Lock::try_acquire`], with options; whatever they say of waiting is ignored.
    ///
    /// # Errors
    /// As [`Lock::try_acquire`] and [`Lock::acquire_with`].
    ///
    /// # Cancel Safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire_with(&self, options: &AcquireOptions) -> Result<Result<Guard, Busy>> {
        let once = AcquireOptions { wait: Some(Wait::AtMost(Duration::ZERO)), ..options.clone() };
        let ask = self.ask(&once, Wait::Unbounded, None)?;
        Ok(self.engine.acquire(&ask).await?.map(|won| self.guard(won)))
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn guard(&self, won: Won) -> Guard {
        Guard::new(self.engine.clone(), self.key.clone(), won)
    }

    pub(super) fn timed_out(&self, busy: Busy) -> Error {
        Error::new(crate::ErrorKind::WaitTimedOut(Box::new(busy)), "")
            .during(Operation::Acquire)
            .on(&self.key)
            .at(&self.engine.core().info.endpoint)
    }

    /// What options, defaults and the store's promises come to. `fixed` is a detached hold's time.
    pub(super) fn ask(&self, options: &AcquireOptions, wait: Wait, fixed: Option<Duration>) -> Result<Ask> {
        let core = self.engine.core();
        let options = options.or(&core.settings.defaults);
        options.check()?;
        let at_least = options.hold_at_least.unwrap_or_default();
        let term = fixed.map_or(Term::Session { at_least }, Term::Fixed);
        if term != Term::default() && !core.info.capabilities.fixed_terms {
            return Err(Error::unsupported(format!(
                "the {} store ends every hold with its session: it knows neither hold_at_least nor detached holds",
                core.info.scheme
            ))
            .on(&self.key));
        }
        Ok(Ask {
            key: self.key.under(core.settings.prefix.as_ref()),
            mode: self.mode,
            permit: self.permit,
            term,
            note: options.note,
            at_most: options.hold_at_most,
            patience: match options.wait.unwrap_or(wait) {
                Wait::Unbounded => Patience::Unbounded,
                Wait::AtMost(time) if time.is_zero() => Patience::Once,
                Wait::AtMost(time) => Patience::AtMost(time),
            },
        })
    }
}

#[async_trait]
impl DistributedLock for Lock {
    fn key(&self) -> &LockKey {
        Lock::key(self)
    }

    async fn acquire(&self) -> Result<Box<dyn LockGuard>> {
        Ok(Box::new(Lock::acquire(self).await?))
    }

    async fn acquire_with(&self, options: &AcquireOptions) -> Result<Box<dyn LockGuard>> {
        Ok(Box::new(Lock::acquire_with(self, options).await?))
    }

    async fn try_acquire(&self) -> Result<Result<Box<dyn LockGuard>, Busy>> {
        Ok(Lock::try_acquire(self).await?.map(|guard| Box::new(guard) as _))
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lock({}, {})", self.key, self.mode)
    }
}

/// A readers-writer lock. Readers and writers are served in the order in which they came, so neither starves.
///
/// ```
/// # use lock_core::{LockClient, MemoryBackend};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// # let client = LockClient::builder(MemoryBackend::new()).build()?;
/// let catalogue = client.rw_lock("catalogue")?;
/// let (one, another) = (catalogue.read().acquire().await?, catalogue.read().acquire().await?);
/// assert!(catalogue.write().try_acquire().await?.is_err());
/// # drop((one, another));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RwLock {
    engine: Arc<Engine>,
    key: LockKey,
}

impl RwLock {
    pub(super) fn new(engine: Arc<Engine>, key: LockKey) -> RwLock {
        RwLock { engine, key }
    }

    /// The lock that many readers hold at once.
    pub fn read(&self) -> Lock {
        Lock::new(self.engine.clone(), self.key.clone(), Mode::Shared, Permit::READER)
    }

    /// The lock that one writer holds alone.
    pub fn write(&self) -> Lock {
        Lock::new(self.engine.clone(), self.key.clone(), Mode::Exclusive, Permit::WRITER)
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RwLock({})", self.key)
    }
}

/// A semaphore: a number of permits of which each holder takes some.
///
/// ```
/// # use lock_core::{LockClient, MemoryBackend};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// # let client = LockClient::builder(MemoryBackend::new()).build()?;
/// let licences = client.semaphore("licences", 5)?;
/// let three = licences.permits(3)?.acquire().await?;
/// assert!(licences.permits(3)?.try_acquire().await?.is_err(), "only two are left");
/// # drop(three);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    engine: Arc<Engine>,
    key: LockKey,
    capacity: u32,
}

impl Semaphore {
    pub(super) fn new(engine: Arc<Engine>, key: LockKey, capacity: u32) -> Result<Semaphore> {
        if capacity == 0 {
            return Err(Error::invalid("a semaphore without permits can never be acquired").on(&key));
        }
        Ok(Semaphore { engine, key, capacity })
    }

    /// The lock that takes this many permits at once.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for none, and for more than there are.
    pub fn permits(&self, held: u32) -> Result<Lock> {
        let permit = Permit::new(held, self.capacity).map_err(|error| error.on(&self.key))?;
        let mode = Mode::Permits { held, of: self.capacity };
        Ok(Lock::new(self.engine.clone(), self.key.clone(), mode, permit))
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Semaphore({}, {} permits)", self.key, self.capacity)
    }
}
