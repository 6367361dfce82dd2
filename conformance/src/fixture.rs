//! [`Fixture`]: a store as the suite needs it.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Error, LockKey, Result};

use crate::SkewedClock;
use crate::remote::Remote;

/// One empty store, for one scenario. Dropped when that is over: whatever it started ends then.
///
/// Only [`backend`](Fixture::backend) has to be there. Every other method is a *hook*: something that a scenario does to
/// a store behind the back of its clients. A scenario whose hook is missing fails, and says which: either the fixture
/// gets it, or the store's [`Promises`](crate::Promises) say why that cannot be.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// The store, as one more client sees it: a connection of its own where there are any.
    async fn backend(&self) -> Result<Arc<dyn Backend>>;

    /// What a child process needs to reach this store: it is handed to [`Suite::children`](crate::Suite::children)
    /// there. `None` for a store of one process.
    fn address(&self) -> Option<String> {
        None
    }

    /// The clock that the store goes by, if that is one of the suite's.
    fn clock(&self) -> Option<SkewedClock> {
        None
    }

    /// Deletes whatever the store's data has about a key: holders, queue, fence.
    async fn forget(&self, key: &LockKey) -> Result<()> {
        let _ = key;
        Err(missing("forget"))
    }

    /// Makes the store believe that this was the highest token that it has granted for an idle key. A store that goes by
    /// [`clock`](Fixture::clock) needs no hook for it.
    async fn set_fence(&self, key: &LockKey, token: u64) -> Result<()> {
        let _ = (key, token);
        Err(missing("set_fence"))
    }

    /// How much the store keeps for its clients: files, rows, entries. `None` where that cannot be counted.
    async fn size(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// How many of this process's descriptors the store itself has open: where the network between its nodes is in here, say.
    fn descriptors(&self) -> usize {
        0
    }

    /// Ends the store's process and starts it again on the same data; where there is no process, whatever stands for
    /// that.
    async fn restart(&self) -> Result<()> {
        Err(missing("restart"))
    }

    /// The server that the store is, with hooks of its own. `None` for a store without one.
    fn remote(&self) -> Option<&dyn Remote> {
        None
    }
}

pub(crate) fn missing(hook: &str) -> Error {
    Error::unsupported(format!(
        "the fixture has no hook `{hook}`: give it one, or say in the store's promises what holds instead of this scenario"
    ))
}
