//! [`RedisBackend`]: the store, as the engine sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Capabilities, Domain, Error, EventSink, Failover, Fencing, FencingToken, Finding,
    Liveness, LockKey, LockState, Opened, Page, Query, Result, SessionOptions, SystemClock, within,
};
use redis::Cmd;

use crate::failure::unexpected;
use crate::kept::Kept;
use crate::known::Called;
use crate::names::Namespace;
use crate::session::RedisSession;
use crate::store::{Question, Store};
use crate::{probe, reply, scripts, sight};

/// How many claims one renewal verifies. A script keeps everybody else waiting, so it is to be short.
const VERIFIED_AT_ONCE: usize = 250;

/// Whoever waits asks again when the holder's time is over, and the server needs a moment to answer.
const SLACK: Duration = Duration::from_millis(200);

/// For records that are touched on behalf of nobody's session.
const NOBODYS_TTL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct RedisBackend {
    store: Arc<Store>,
    namespace: Namespace,
    idle_after: Duration,
}

impl RedisBackend {
    pub(crate) fn new(store: Store, namespace: Namespace, idle_after: Duration) -> RedisBackend {
        RedisBackend { store: Arc::new(store), namespace, idle_after }
    }

    /// A server may also fall silent behind its connection.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<()> {
        let connected = within(&SystemClock::new(), limit, self.store.connect()).await.unwrap_or_else(|| {
            Err(Error::unavailable(format!(
                "no answer within {limit:?}; is it up, and can it be reached from here?"
            )))
        });
        connected.map_err(|error| match error.endpoint() {
            Some(_) => error,
            None => error.at(self.store.endpoint()),
        })
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
        BackendInfo::new("redis", self.store.endpoint(), capabilities)
    }

    fn domain(&self, key: &LockKey) -> Domain {
        self.store.domain(key)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let (names, kept) = (self.namespace.of(options.domain), Kept::new(self.idle_after, options.ttl));
        let session = RedisSession::open(&self.store, names, kept, options, sink).await?;
        Ok(Opened::new(Arc::new(session), options.ttl))
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        probe::probe(&self.store).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        sight::inspect(&self.store, &self.namespace, key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        sight::list(&self.store, &self.namespace, query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let domain = self.store.domain(key);
        let called = Called::new(&self.namespace.of(domain), key);
        let kept = Kept::new(self.idle_after, NOBODYS_TTL);
        let arguments = |command: &mut Cmd, _| {
            command.arg(1).arg(&called.lock).arg(&called.name);
            match only {
                Some(token) => command.arg(token.get()),
                None => command.arg(""),
            };
            command.arg(kept.whole);
        };
        let question = Question::Script(&scripts::FORCE_RELEASE, &arguments);
        let answer = self.store.ask(domain, None, question).await?;
        let ended = reply::number(&answer).and_then(|number| usize::try_from(number).ok());
        ended.ok_or_else(|| unexpected("a forced release", &answer))
    }
}
