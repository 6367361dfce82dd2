//! One call to the backend, under its own deadline.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Core;
use crate::clock::{Clock, Pause};
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
        match bounded(&self.core.clock, self.limit, call).await {
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

/// `None` when the limit passes first. A call that is ready at once costs no timer.
async fn bounded<T>(clock: &Arc<dyn Clock>, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut timer: Option<Pause> = None;
    poll_fn(|context| {
        if let Poll::Ready(value) = call.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.get_or_insert_with(|| clock.sleep(limit)).as_mut().poll(context).map(|()| None)
    })
    .await
}
