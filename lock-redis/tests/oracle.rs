//! The scripts and the lock table: random commands come to the same, on a real server whose clock stands still between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::oracle::compare_with_the_table;
use lock_conformance::servers::{RedisSetup, WallClock};
use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Clock, EventSink, FencingToken, LockKey,
    LockState, Opened, Page, Query, Released, Renewal, Result, Session, SessionId, SessionOptions,
    VirtualClock, async_trait,
};
use lock_redis::{RedisOptions, redis};

#[test]
fn the_scripts_answer_as_the_table() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wall = WallClock::new().unwrap();
    let server = runtime.block_on(async {
        let setup = wall
            .environment()
            .into_iter()
            .fold(RedisSetup::new(), |setup, (key, value)| setup.environment(key, value));
        setup.start().await.unwrap()
    });
    let driver = redis::Client::open(server.url()).unwrap();
    let cases = std::env::var("ORACLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128);
    let played = AtomicUsize::new(0);
    let compared = compare_with_the_table(cases, |clock| {
        // Each case finds an empty store.
        let namespace = format!("case-{}", played.fetch_add(1, Ordering::SeqCst));
        let (driver, wall) = (driver.clone(), wall.clone());
        Ok(move || {
            let options = RedisOptions::new().namespace(&namespace).idle_after(Duration::from_millis(5));
            let backend = lock_redis::backend(&driver, options)?;
            Ok(Arc::new(Timed { backend, time: Time { clock: clock.clone(), wall: wall.clone() } })
                as Arc<dyn Backend>)
        })
    });
    assert_eq!(compared, Ok(()));
}

/// Shows the server the virtual clock before each call.
#[derive(Clone, Debug)]
struct Time {
    clock: VirtualClock,
    wall: WallClock,
}

impl Time {
    fn show(&self) -> Result<()> {
        self.wall.stop_at(self.clock.wall_micros())
    }
}

#[derive(Debug)]
struct Timed {
    backend: Arc<dyn Backend>,
    time: Time,
}

#[derive(Debug)]
struct TimedSession {
    session: Arc<dyn Session>,
    time: Time,
}

#[async_trait]
impl Backend for Timed {
    fn info(&self) -> BackendInfo {
        self.backend.info()
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        self.time.show()?;
        let opened = self.backend.open(options, sink).await?;
        let session = TimedSession { session: opened.session, time: self.time.clone() };
        Ok(Opened::new(Arc::new(session), opened.ttl))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        self.time.show()?;
        self.backend.inspect(key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        self.time.show()?;
        self.backend.list(query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        self.time.show()?;
        self.backend.force_release(key, only).await
    }
}

#[async_trait]
impl Session for TimedSession {
    fn id(&self) -> SessionId {
        self.session.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.time.show()?;
        self.session.renew(known).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.time.show()?;
        self.session.claim(claim).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.time.show()?;
        self.session.release(claim, certainty).await
    }

    async fn close(&self) -> Result<()> {
        self.time.show()?;
        self.session.close().await
    }
}
