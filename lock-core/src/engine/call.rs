//! One call to the backend, under its own deadline.

use std::future::Future;
use std::time::Duration;

use super::Core;
use crate::clock::within;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::LockKey;

/// Makes calls to the backend: each bounded, each error with its context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    core: &'a Core,
    operation: Operation,
    key: Option<&'a LockKey>,
    limit: Duration,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(core: &'a Core, operation: Operation) -> Caller<'a> {
        Caller { core, operation, key: None, limit: core.settings.call_timeout }
    }

    pub(crate) fn on(mut self, key: &'a LockKey) -> Caller<'a> {
        self.key = Some(key);
        self
    }

    pub(crate) fn at_most(mut self, limit: Duration) -> Caller<'a> {
        self.limit = self.limit.min(limit);
        self
    }

    /// Awaits one call. Past its deadline the call is dropped and may still take effect.
    pub(crate) async fn call<T>(self, call: impl Future<Output = Result<T>>) -> Result<T> {
        // A store in this process or on this machine never lets anybody wait: whoever uses its locks in a loop would keep
        // the heartbeat of their own session from running.
        tokio::task::consume_budget().await;
        match within(&*self.core.clock, self.limit, call).await {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(self.explain(error)),
            None => Err(self.explain(Error::new(
                ErrorKind::TimedOut,
                format!("the store gave no answer within {:?}; is it overloaded, or cut off?", self.limit),
            ))),
        }
    }

    pub(crate) fn explain(&self, error: Error) -> Error {
        let error = error.during(self.operation).at(&self.core.info.endpoint);
        match self.key {
            Some(key) => error.on(key),
            None => error,
        }
    }
}
