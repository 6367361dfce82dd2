//! [`Records`]: a backend over a store of records.

use std::sync::Arc;

use async_trait::async_trait;

use super::session::TableSession;
use super::transact::{decode, transact};
use super::{RecordStore, Sight};
use crate::backend::{
    Backend, BackendInfo, EventSink, Finding, HolderState, LockState, Opened, Page, Query, SessionOptions,
    WaiterState,
};
use crate::error::{ErrorKind, Result};
use crate::key::LockKey;
use crate::table::{Command, Holder, Input, KeyRecord, Outcome};
use crate::token::FencingToken;

/// A backend whose every key is one record in a store: `Arc::new(Records::new(store))` is what a
/// [`Connector`](crate::Connector) returns. Queue, tokens, readers-writer locks and semaphores are the lock table's.
#[derive(Clone, Debug)]
pub struct Records<S> {
    store: Arc<S>,
}

impl<S: RecordStore> Records<S> {
    /// A backend over this store.
    pub fn new(store: S) -> Records<S> {
        Records { store: Arc::new(store) }
    }

    /// The store below.
    pub fn store(&self) -> &S {
        &self.store
    }

    async fn describe(&self, holder: &Holder, input: Input) -> Result<Option<HolderState>> {
        let Sight { lives, remaining, info } = self.store.sight(holder.session).await?;
        if !KeyRecord::counts(holder, input.now, &|_| lives) {
            return Ok(None);
        }
        let fixed = holder.holding.fixed_until();
        let remaining = match fixed {
            Some(until) => Some(std::time::Duration::from_micros(until.saturating_sub(input.now))),
            None => remaining,
        };
        let state = HolderState::new(holder.session, holder.ticket, holder.token, holder.mode);
        Ok(Some(state.ends_in(remaining, fixed.is_some()).described(info, holder.note.clone())))
    }
}

#[async_trait]
impl<S: RecordStore> Backend for Records<S> {
    fn info(&self) -> BackendInfo {
        self.store.info()
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let session = self.store.open(options, sink).await?;
        let ttl = session.ttl();
        let store: Arc<dyn RecordStore> = self.store.clone();
        Ok(Opened::new(Arc::new(TableSession::new(store, session)), ttl))
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        self.store.probe().await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        let read = self.store.read(key).await?;
        let record = decode(&*self.store, key, &read)?;
        let input = self.store.input().await?;
        let mut state = LockState::idle(key.clone());
        state.fence = FencingToken::new(record.fence()).ok();
        for holder in record.holders() {
            state.holders.extend(self.describe(holder, input).await?);
        }
        for waiter in record.queue() {
            let Sight { lives, info, .. } = self.store.sight(waiter.session).await?;
            if lives {
                let waiting = WaiterState::new(waiter.session, waiter.ticket, waiter.mode);
                state.queue.push(waiting.described(info, waiter.note.clone()));
            }
        }
        state.capacity = record.capacity().filter(|_| !state.is_idle());
        Ok(state)
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        let page = self.store.list(query).await?;
        let mut busy = Page::new(Vec::new(), page.next);
        for key in page.keys {
            match self.inspect(&key).await {
                Ok(state) if state.is_idle() => {}
                // Whoever looks at it learns what is wrong with it, and the others are seen all the same.
                Err(error) if *error.kind() != ErrorKind::Damaged => return Err(error),
                _ => busy.keys.push(key),
            }
        }
        Ok(busy)
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let done = transact(&*self.store, key, &Command::ForceRelease { only }, None).await?;
        match done.applied.outcome {
            Outcome::ForceReleased(count) => Ok(count),
            outcome => Err(outcome.into_error()),
        }
    }
}
