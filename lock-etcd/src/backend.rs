//! [`EtcdBackend`]: the store, as the engine sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Txn, TxnOp};
use lock_core::{
    Backend, BackendInfo, Capabilities, EventSink, Failover, Fencing, FencingToken, Finding, Liveness,
    LockKey, LockState, Opened, Page, Query, Result, SessionOptions,
};

use crate::claim::{exists, is_made_at};
use crate::dial::Dial;
use crate::entry::Kind;
use crate::link::Link;
use crate::names::{self, Names};
use crate::session::EtcdSession;
use crate::{probe, sight};

/// How many claims one renewal verifies: they are read in one transaction, which may have 128 parts.
const VERIFIED_AT_ONCE: usize = 120;

/// Leases are whole seconds, and the server looks at them twice a second.
const SLACK: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
pub(crate) struct EtcdBackend {
    link: Arc<Link>,
    names: Names,
    scheme: &'static str,
}

impl EtcdBackend {
    pub(crate) fn new(dial: Dial, root: &str) -> Result<EtcdBackend> {
        let (names, scheme) = (Names::new(root)?, dial.scheme());
        Ok(EtcdBackend { link: Arc::new(Link::new(dial)), names, scheme })
    }

    pub(crate) async fn connect(&self) -> Result<()> {
        self.link.connect().await
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn info(&self) -> BackendInfo {
        let capabilities = Capabilities::new()
            .liveness(Liveness::Lease)
            .expiry_slack(SLACK)
            .fencing(Fencing::Durable)
            .fair()
            .push()
            .fixed_terms()
            .failover(Failover::Kept)
            .verify_chunk(VERIFIED_AT_ONCE);
        BackendInfo::new(self.scheme, self.link.endpoint(), capabilities)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        EtcdSession::open(&self.link, &self.names, options, sink).await
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        probe::probe(&self.link).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        sight::inspect(&self.link, &self.names, key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        sight::list(&self.link, &self.names, query).await
    }

    /// Each is deleted if it still is the one that was seen. Whoever is next is told by the deletion.
    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let queue = sight::queue(&self.link, &self.names, key).await?;
        let mut ended = 0;
        for entry in &queue.entries()[..queue.holders()] {
            if only.is_some_and(|only| u64::try_from(entry.revision) != Ok(only.get())) {
                continue;
            }
            let (stands, names) = match entry.kind {
                // Only what is left of a claim that has gone: under its name there may be another one by now.
                Kind::Kept => (exists(&entry.name), vec![entry.name.clone()]),
                _ => (
                    is_made_at(&entry.name, entry.revision),
                    vec![entry.name.clone(), names::companion(&entry.name, entry.ticket)],
                ),
            };
            let deletes: Vec<_> = names.into_iter().map(|name| TxnOp::delete(name, None)).collect();
            let txn = Txn::new().when(vec![stands]).and_then(deletes);
            let (response, _) = self.link.txn(txn).await?;
            ended += usize::from(response.succeeded());
        }
        Ok(ended)
    }
}
