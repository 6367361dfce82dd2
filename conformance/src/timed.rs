//! [`timed`]: a server sees the virtual clock.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Clock, EventSink, FencingToken, LockKey,
    LockState, Opened, Page, Query, Released, Renewal, Result, Session, SessionId, SessionOptions,
    VirtualClock,
};

use crate::servers::WallClock;

/// A backend whose server is shown the virtual clock before each call, and whose clock stands still in between: for
/// [`compare_with_the_table`](crate::oracle::compare_with_the_table) with a server that was started under this wall clock.
pub fn timed(backend: Arc<dyn Backend>, clock: &VirtualClock, wall: &WallClock) -> Arc<dyn Backend> {
    Arc::new(Timed { backend, time: Time { clock: clock.clone(), wall: wall.clone() } })
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
