//! Stores with ways of their own: one connection for everything, and one that says by a release that the session is over.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Clock, End, Error, EventSink, FencingToken,
    LockClient, LockKey, LockState, MemoryBackend, Opened, Page, Query, Reason, Released, Renewal, Result,
    Session, SessionId, SessionOptions, VirtualClock,
};
use tokio::sync::Mutex;

use crate::support::{TTL, World, millis, rest, secs};

#[derive(Debug)]
struct OneWire(Arc<MemoryBackend>, VirtualClock);
#[derive(Debug)]
struct OneWireSession {
    inner: Arc<dyn Session>,
    wire: Mutex<()>,
    clock: VirtualClock,
}

#[async_trait]
impl Backend for OneWire {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }
    async fn open(&self, o: &SessionOptions, s: EventSink) -> Result<Opened> {
        let opened = self.0.open(o, s).await?;
        Ok(Opened::new(
            Arc::new(OneWireSession { inner: opened.session, wire: Mutex::new(()), clock: self.1.clone() }),
            opened.ttl,
        ))
    }
    async fn inspect(&self, k: &LockKey) -> Result<LockState> {
        self.0.inspect(k).await
    }
    async fn list(&self, q: &Query) -> Result<Page> {
        self.0.list(q).await
    }
    async fn force_release(&self, k: &LockKey, t: Option<FencingToken>) -> Result<usize> {
        self.0.force_release(k, t).await
    }
}
#[async_trait]
impl Session for OneWireSession {
    fn id(&self) -> SessionId {
        self.inner.id()
    }
    // One connection, one request at a time: a renewal takes 100 ms.
    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let _wire = self.wire.lock().await;
        self.clock.sleep(millis(100)).await;
        self.inner.renew(known).await
    }
    async fn claim(&self, c: &Claim) -> Result<Claimed> {
        let _w = self.wire.lock().await;
        self.inner.claim(c).await
    }
    async fn release(&self, c: &ClaimRef, y: Certainty) -> Result<Released> {
        let _w = self.wire.lock().await;
        self.inner.release(c, y).await
    }
    async fn close(&self) -> Result<()> {
        let _w = self.wire.lock().await;
        self.inner.close().await
    }
}

#[tokio::test]
async fn a_renewal_under_way_does_not_keep_the_last_release_from_the_store() {
    let world = World::new();
    let backend = Arc::new(OneWire(world.memory.clone(), world.clock.clone()));
    let client = LockClient::builder(backend).clock(Arc::new(world.clock.clone())).ttl(TTL).build().unwrap();
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    // Until the first renewal is on its way.
    rest().await;
    let due = world.clock.next_timer().unwrap();
    world.pass(due.since(world.clock.boot()) + millis(50)).await;
    drop(guard);
    drop(client);
    world.pass(secs(1)).await;
    assert!(world.state("k").await.is_idle(), "a second later: {:?}", world.state("k").await);
}

#[derive(Debug)]
struct Ending(Arc<MemoryBackend>);
#[derive(Debug)]
struct EndingSession(Arc<dyn Session>);
#[async_trait]
impl Backend for Ending {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }
    async fn open(&self, o: &SessionOptions, s: EventSink) -> Result<Opened> {
        let opened = self.0.open(o, s).await?;
        Ok(Opened::new(Arc::new(EndingSession(opened.session)), opened.ttl))
    }
    async fn inspect(&self, k: &LockKey) -> Result<LockState> {
        self.0.inspect(k).await
    }
    async fn list(&self, q: &Query) -> Result<Page> {
        self.0.list(q).await
    }
    async fn force_release(&self, k: &LockKey, t: Option<FencingToken>) -> Result<usize> {
        self.0.force_release(k, t).await
    }
}
#[async_trait]
impl Session for EndingSession {
    fn id(&self) -> SessionId {
        self.0.id()
    }
    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.0.renew(known).await
    }
    async fn claim(&self, c: &Claim) -> Result<Claimed> {
        self.0.claim(c).await
    }
    async fn release(&self, _: &ClaimRef, _: Certainty) -> Result<Released> {
        self.0.close().await?; // the store has ended it, and says so
        Err(Error::session_lost(Reason::SessionEnded))
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
#[tokio::test]
async fn a_release_that_hears_of_the_sessions_end_tells_the_other_holds() {
    let world = World::new();
    let client = LockClient::builder(Arc::new(Ending(world.memory.clone())))
        .clock(Arc::new(world.clock.clone()))
        .ttl(TTL)
        .build()
        .unwrap();
    let (a, b) = (
        client.mutex("a").unwrap().acquire().await.unwrap(),
        client.mutex("b").unwrap().acquire().await.unwrap(),
    );
    assert_eq!(a.release().await.unwrap(), End::Lost(Reason::SessionEnded));
    rest().await;
    let stolen = world.neighbour().mutex("b").unwrap().try_acquire().await.unwrap().is_ok();
    assert!(
        !(stolen && b.state().is_held()),
        "another holds b, and its old holder was told nothing: {:?}",
        b.state()
    );
}
