//! [`PostgresBackend`]: the store, as the engine sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Capabilities, EventSink, Failover, Fencing, FencingToken, Finding, Liveness,
    LockKey, LockState, Opened, Page, Query, Result, SessionOptions,
};

use crate::dial::Dial;
use crate::session::PostgresSession;
use crate::store::Store;
use crate::{probe, sight};

/// How many claims one renewal verifies. Other statements of the client wait for it meanwhile.
const VERIFIED_AT_ONCE: usize = 250;

/// Whoever waits asks again when the holder's time is over, and the server needs a moment to answer.
const SLACK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct PostgresBackend {
    store: Arc<Store>,
}

impl PostgresBackend {
    pub(crate) fn new(dial: Dial) -> Result<PostgresBackend> {
        Ok(PostgresBackend { store: Arc::new(Store::new(dial)?) })
    }

    /// Both connections are made, and news are heard that go from one to the other.
    pub(crate) async fn connect(&self) -> Result<()> {
        self.store.is_heard().await
    }
}

#[async_trait]
impl Backend for PostgresBackend {
    fn info(&self) -> BackendInfo {
        let capabilities = Capabilities::new()
            .liveness(Liveness::Lease)
            .expiry_slack(SLACK)
            .fencing(Fencing::Clock)
            .fair()
            .push()
            .fixed_terms()
            .failover(Failover::MayLose)
            .verify_chunk(VERIFIED_AT_ONCE);
        BackendInfo::new("postgres", self.store.dial.endpoint(), capabilities)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let session = PostgresSession::open(&self.store, options, sink).await?;
        Ok(Opened::new(Arc::new(session), options.ttl))
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        probe::probe(&self.store).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        sight::inspect(&self.store, key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        sight::list(&self.store, query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        sight::force_release(&self.store, key, only).await
    }
}
