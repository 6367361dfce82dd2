//! [`ZooKeeperBackend`]: the store, as the engine sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Capabilities, EventSink, Failover, Fencing, FencingToken, Finding, Liveness,
    LockKey, LockState, Opened, Page, Query, Result, SessionOptions,
};

use crate::dial::Dial;
use crate::failure::failed;
use crate::link::Link;
use crate::names::Names;
use crate::session::{Sessions, token};
use crate::wire::delete;
use crate::{probe, sight};

/// How many claims one renewal verifies: their paths go in one request, which may have a megabyte.
const VERIFIED_AT_ONCE: usize = 250;

#[derive(Debug)]
pub(crate) struct ZooKeeperBackend {
    link: Link,
    names: Names,
    sessions: Sessions,
}

impl ZooKeeperBackend {
    pub(crate) fn new(dial: Dial) -> Result<ZooKeeperBackend> {
        let names = Names::new(&dial.options().root)?;
        Ok(ZooKeeperBackend { link: Link::new(Arc::new(dial)), names, sessions: Sessions::default() })
    }

    pub(crate) async fn connect(&self) -> Result<()> {
        self.link.connect().await
    }

    /// Servers count from when they last heard of a client, which may be a third of its TTL after its last renewal: of twenty ticks,
    /// unless they are set to grant more. They look for who is gone once in a tick, and hear half a tick late of who has spoken to
    /// others of them.
    fn slack(&self) -> Duration {
        self.link.dial().options().tick * 9
    }
}

#[async_trait]
impl Backend for ZooKeeperBackend {
    fn info(&self) -> BackendInfo {
        let capabilities = Capabilities::new()
            .liveness(Liveness::Lease)
            .expiry_slack(self.slack())
            .fencing(Fencing::Durable)
            .fair()
            .push()
            .failover(Failover::Kept)
            .verify_chunk(VERIFIED_AT_ONCE);
        let dial = self.link.dial();
        BackendInfo::new(dial.scheme(), format!("{dial:?}"), capabilities)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        self.sessions.open(self.link.dial(), &self.names, options, sink).await
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        probe::probe(&self.link, &self.names).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        sight::inspect(&self.link, &self.names, key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        sight::list(&self.link, &self.names, query).await
    }

    /// Whoever is next is told by the deletion. No other node ever has the name of one that was seen.
    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let queue = sight::queue(&self.link, &self.names, key).await?;
        let (lock, mut ended) = (self.names.lock(key), 0);
        for entry in &queue.entries()[..queue.holders()] {
            let path = format!("{lock}/{}", entry.name);
            ended += self
                .link
                .ask(|client| async move {
                    if let Some(only) = only {
                        let stat = client.check_stat(&path).await.map_err(failed)?;
                        if stat.and_then(|stat| token(stat.czxid).ok()) != Some(only) {
                            return Ok(0);
                        }
                    }
                    delete(&client, &path).await.map(usize::from)
                })
                .await?;
        }
        Ok(ended)
    }
}
