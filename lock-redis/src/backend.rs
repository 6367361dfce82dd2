//! [`RedisBackend`]: the store, as the engine sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Capabilities, EventSink, Failover, Fencing, FencingToken, Finding, Liveness,
    LockKey, LockState, Opened, Page, Query, Result, SessionOptions,
};
use redis::ConnectionInfo;

use crate::failure::unexpected;
use crate::kept::Kept;
use crate::known::Called;
use crate::link::Link;
use crate::names::Names;
use crate::options::RedisOptions;
use crate::session::RedisSession;
use crate::{probe, reply, scripts, sight};

/// How many claims one renewal verifies. A script keeps everybody else waiting, so it is to be short.
const VERIFIED_AT_ONCE: usize = 250;

/// Whoever waits asks again when the holder's time is over, and the server needs a moment to answer.
const SLACK: Duration = Duration::from_millis(200);

/// For records that are touched on behalf of nobody's session.
const NOBODYS_TTL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct RedisBackend {
    link: Arc<Link>,
    names: Names,
    idle_after: Duration,
}

impl RedisBackend {
    pub(crate) fn new(info: &ConnectionInfo, options: RedisOptions) -> Result<RedisBackend> {
        let (names, idle_after) = (Names::new(&options.namespace)?, options.idle_after);
        Ok(RedisBackend { link: Arc::new(Link::new(info, options)), names, idle_after })
    }

    pub(crate) async fn connect(&self) -> Result<()> {
        self.link.connect().await.map_err(|error| error.at(self.link.endpoint()))
    }
}

#[async_trait]
impl Backend for RedisBackend {
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
        BackendInfo::new("redis", self.link.endpoint(), capabilities)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let ear = self.link.listen(self.names.events(options.id), sink).await?;
        let kept = Kept::new(self.idle_after, options.ttl);
        let session = RedisSession::open(&self.link, &self.names, kept, options, ear).await?;
        Ok(Opened::new(Arc::new(session), options.ttl))
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

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let called = Called::new(&self.names, key);
        let kept = Kept::new(self.idle_after, NOBODYS_TTL);
        let answer = self
            .link
            .run(&scripts::FORCE_RELEASE, |command| {
                command.arg(1).arg(&called.lock).arg(&called.name);
                match only {
                    Some(token) => command.arg(token.get()),
                    None => command.arg(""),
                };
                command.arg(kept.whole);
            })
            .await?;
        let ended = reply::number(&answer).and_then(|number| usize::try_from(number).ok());
        ended.ok_or_else(|| unexpected("a forced release", &answer))
    }
}
