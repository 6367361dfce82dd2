//! `lock.run(|held| …)`: acquire, work, release, in one call.

use std::future::Future;
use std::time::Duration;

use super::guard::Held;
use super::lock::Lock;
use crate::error::Result;
use crate::hold::{Busy, End, Lost, Reason};
use crate::options::{AcquireOptions, Wait};
use crate::telemetry;

/// What became of work that had to run under a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the work may not have run, or not to its end"]
pub enum Ran<T> {
    /// It ran to its end, under the lock.
    Done(T),
    /// It did not run: another holds the lock.
    Busy(Busy),
    /// It was dropped, or its result came too late: the lock was lost.
    Lost(Reason),
}

impl<T> Ran<T> {
    /// The result, if the work ran to its end.
    pub fn done(self) -> Option<T> {
        match self {
            Ran::Done(result) => Some(result),
            _ => None,
        }
    }
}

impl Lock {
    /// Acquires, runs, releases, and waits for that release. One attempt, unless the client's defaults set a wait.
    ///
    /// ```
    /// use lock_core::{LockClient, MemoryBackend, Ran};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lock_core::Result<()> {
    /// # let client = LockClient::builder(MemoryBackend::new()).build()?;
    /// let ran = client.mutex("nightly-report")?.run(|held| async move {
    ///     write_report(held.token().get()).await
    /// }).await?;
    /// match ran {
    ///     Ran::Done(rows) => println!("{rows} rows"),
    ///     Ran::Busy(busy) => println!("skipped: {busy}"),
    ///     Ran::Lost(reason) => println!("stopped: {reason}"),
    /// }
    /// # async fn write_report(_token: u64) -> u32 { 3 }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The work is dropped before the lease can end: see [`Held::run`]. A release that the store did not answer is
    /// logged and left to the engine: it takes nothing away from work that was done. Nor is it waited for where the hold
    /// had ended by itself.
    ///
    /// # Errors
    /// As [`Lock::try_acquire`]; with a wait as [`Lock::acquire`], save that patience that is over is [`Ran::Busy`].
    ///
    /// # Cancel Safety
    /// Dropping the future drops the work and releases the lock.
    pub async fn run<F, W>(&self, work: F) -> Result<Ran<W::Output>>
    where
        F: FnOnce(Held) -> W,
        W: Future,
    {
        self.run_with(&AcquireOptions::new(), work).await
    }

    /// As [`Lock::run`], with options.
    ///
    /// # Errors
    /// As [`Lock::run`] and [`Lock::acquire_with`].
    ///
    /// # Cancel Safety
    /// As [`Lock::run`].
    pub async fn run_with<F, W>(&self, options: &AcquireOptions, work: F) -> Result<Ran<W::Output>>
    where
        F: FnOnce(Held) -> W,
        W: Future,
    {
        let ask = self.ask(options, Wait::AtMost(Duration::ZERO), None)?;
        let guard = match self.engine().acquire(&ask).await {
            Ok(Ok(won)) => self.guard(won),
            Ok(Err(busy)) => return Ok(Ran::Busy(busy)),
            Err(error) => match error.busy() {
                Some(busy) => return Ok(Ran::Busy(busy.clone())),
                None => return Err(error),
            },
        };
        let ran = guard.run(work(guard.held())).await;
        let key = guard.key().clone();
        let released = guard.release().await;
        Ok(match (ran, released) {
            (Err(Lost(reason)), _) | (Ok(_), Ok(End::Lost(reason))) => Ran::Lost(reason),
            (Ok(result), Ok(End::Released)) => Ran::Done(result),
            (Ok(result), Err(error)) => {
                tracing::warn!(target: telemetry::TARGET, %key, %error, "the work is done, its release goes on");
                Ran::Done(result)
            }
        })
    }
}
