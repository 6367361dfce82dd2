//! [`MemoryBackend`]: locks inside one process. The lock table behind a mutex.

mod connector;
mod session;
mod store;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::connector::MemoryConnector;
use self::session::MemorySession;
use self::store::Store;
use crate::backend::{
    Backend, BackendInfo, Capabilities, EventSink, Failover, Fencing, Liveness, LockState, Opened, Page,
    Query, SessionId, SessionOptions,
};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::key::LockKey;
use crate::token::FencingToken;

/// A store in this process's memory: for tests, and for programs that are one process.
///
/// Clients that share one `Arc<MemoryBackend>` share its locks. Nothing outlives the process.
#[derive(Clone, Debug)]
pub struct MemoryBackend {
    store: Arc<Store>,
}

impl MemoryBackend {
    /// An empty store under the system's clock.
    pub fn new() -> Arc<MemoryBackend> {
        MemoryBackend::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty store under another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Arc<MemoryBackend> {
        Arc::new(MemoryBackend { store: Arc::new(Store::new(clock)) })
    }

    /// Loses whatever it knows of a key, holders, queue and fence, and tells nobody: for tests of what happens then.
    pub fn forget(&self, key: &LockKey) {
        self.store.forget(key);
    }

    /// Ends a session, as its expiry does, and tells nobody: for tests of what happens then.
    pub fn end_session(&self, session: SessionId) {
        self.store.close(session);
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn info(&self) -> BackendInfo {
        let capabilities = Capabilities::new()
            .liveness(Liveness::Lease)
            .fencing(Fencing::Clock)
            .fair()
            .push()
            .fixed_terms()
            .failover(Failover::NotApplicable);
        BackendInfo::new("memory", "memory:", capabilities)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        self.store.open(options, sink)?;
        Ok(Opened::new(Arc::new(MemorySession::new(self.store.clone(), options.id)), options.ttl))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        Ok(self.store.inspect(key))
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        Ok(self.store.list(query))
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        self.store.force_release(key, only)
    }
}
