//! Detached holds: they belong to no process, and end by key and token from anywhere, or by themselves.

use std::time::Duration;

use super::LockClient;
use super::lock::Lock;
use crate::error::{Error, Result};
use crate::key::LockKey;
use crate::options::{AcquireOptions, Wait};
use crate::token::FencingToken;

/// A hold that lives until a fixed instant of the store's clock, whatever becomes of this process.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireOptions, LockClient, MemoryBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// # let client = LockClient::builder(MemoryBackend::new()).build()?;
/// let hour = Duration::from_secs(3600);
/// let held = client.mutex("deploy")?.acquire_detached(hour, &AcquireOptions::new()).await?;
/// // … in another process, with key and token:
/// assert!(client.release_detached(&held.key, held.token).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detached {
    /// The lock's name.
    pub key: LockKey,
    /// The grant's token; with the key, all that is needed to end it.
    pub token: FencingToken,
    /// For how long it holds, counted from the grant by the store's clock.
    pub time: Duration,
}

impl Lock {
    /// Acquires for a fixed time: the hold ends then, or by [`LockClient::release_detached`]. Nothing renews it.
    ///
    /// # Errors
    /// As [`Lock::acquire_with`]; [`Unsupported`](crate::ErrorKind::Unsupported) where the store ends every hold with
    /// its session; [`InvalidInput`](crate::ErrorKind::InvalidInput) together with `hold_at_most` or `hold_at_least`,
    /// which the fixed time replaces, and for a time of zero or above [`AcquireOptions::LONGEST_TERM`].
    ///
    /// # Cancel Safety
    /// As [`Lock::acquire`].
    pub async fn acquire_detached(&self, time: Duration, options: &AcquireOptions) -> Result<Detached> {
        if time.is_zero() || time > AcquireOptions::LONGEST_TERM {
            return Err(
                Error::invalid("a detached hold lasts more than nothing and at most a year").on(self.key())
            );
        }
        if options.hold_at_most.is_some() || options.hold_at_least.is_some() {
            return Err(Error::invalid(
                "a detached hold lasts exactly its time: hold_at_most and hold_at_least have no place beside it",
            )
            .on(self.key()));
        }
        let ask = self.ask(options, Wait::Unbounded, Some(time))?;
        match self.engine().acquire(&ask).await? {
            Ok(won) => Ok(Detached { key: self.key().clone(), token: won.hold.token(), time }),
            Err(busy) => Err(self.timed_out(busy)),
        }
    }
}

impl LockClient {
    /// Ends a detached hold, by its key and its token. `false` when no hold of that key has this token: it has ended.
    ///
    /// # Errors
    /// As [`LockClient::force_release`].
    pub async fn release_detached<K: TryInto<LockKey>>(&self, key: K, token: FencingToken) -> Result<bool>
    where
        Error: From<K::Error>,
    {
        Ok(self.force_release(key, Some(token)).await? > 0)
    }
}
