//! Stores with a way of their own, and what the engine makes of it.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Clock, End, Error, ErrorKind, EventSink,
    FencingToken, HoldState, LockClient, LockKey, LockState, MemoryBackend, Opened, Page, Query, Reason,
    Released, Renewal, Result, Session, SessionId, SessionOptions, VirtualClock, async_trait,
};
use tokio::sync::Mutex;

use crate::support::{TTL, World, millis, rest, secs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One connection, one request at a time; a renewal takes 100 ms.
    OneConnection,
    /// A release ends the session, and says so.
    EndsByRelease,
    /// Wants this to be taken off the TTL.
    Margin(Duration),
    /// Renews for so long from the second renewal on.
    Lengthens(Duration),
    /// Panics when a session is opened.
    PanicsAtOpen,
}

#[derive(Debug)]
struct Peculiar {
    inner: Arc<MemoryBackend>,
    clock: VirtualClock,
    way: Way,
}

#[derive(Debug)]
struct PeculiarSession {
    inner: Arc<dyn Session>,
    clock: VirtualClock,
    way: Way,
    connection: Mutex<u32>,
}

/// A client of the world's store, in its way.
fn client(world: &World, way: Way) -> LockClient {
    let backend = Peculiar { inner: world.memory.clone(), clock: world.clock.clone(), way };
    LockClient::builder(Arc::new(backend)).clock(Arc::new(world.clock.clone())).ttl(TTL).build().unwrap()
}

#[async_trait]
impl Backend for Peculiar {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        assert_ne!(self.way, Way::PanicsAtOpen, "as planned");
        let mut inner = options.clone();
        if let Way::Lengthens(ttl) = self.way {
            // What the store keeps is never shorter than what it says.
            inner.ttl = ttl;
        }
        let session = PeculiarSession {
            inner: self.inner.open(&inner, sink).await?.session,
            clock: self.clock.clone(),
            way: self.way,
            connection: Mutex::new(0),
        };
        let opened = Opened::new(Arc::new(session), options.ttl);
        Ok(if let Way::Margin(margin) = self.way { opened.margin(margin) } else { opened })
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        self.inner.inspect(key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        self.inner.list(query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        self.inner.force_release(key, only).await
    }
}

#[async_trait]
impl Session for PeculiarSession {
    fn id(&self) -> SessionId {
        self.inner.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let mut renewals = self.connection.lock().await;
        *renewals += 1;
        if self.way == Way::OneConnection {
            self.clock.sleep(millis(100)).await;
        }
        let mut renewal = self.inner.renew(known).await?;
        if let (Way::Lengthens(ttl), 2..) = (self.way, *renewals) {
            renewal.ttl = Some(ttl);
        }
        Ok(renewal)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let _connection = self.connection.lock().await;
        self.inner.claim(claim).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let _connection = self.connection.lock().await;
        if self.way == Way::EndsByRelease {
            self.inner.close().await?;
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        self.inner.release(claim, certainty).await
    }

    async fn close(&self) -> Result<()> {
        let _connection = self.connection.lock().await;
        self.inner.close().await
    }
}

#[tokio::test]
async fn a_renewal_under_way_does_not_keep_the_last_release_from_the_store() {
    let world = World::new();
    let client = client(&world, Way::OneConnection);
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

#[tokio::test]
async fn a_release_that_hears_of_the_sessions_end_tells_the_other_holds() {
    let world = World::new();
    let client = client(&world, Way::EndsByRelease);
    let [one, other] = ["one", "other"].map(|key| client.mutex(key).unwrap());
    let (one, other) = (one.acquire().await.unwrap(), other.acquire().await.unwrap());
    assert_eq!(one.release().await.unwrap(), End::Lost(Reason::SessionEnded));
    rest().await;
    assert_eq!(
        other.state(),
        HoldState::Ended(End::Lost(Reason::SessionEnded)),
        "another may hold it by now"
    );
}

#[tokio::test]
async fn a_store_may_want_a_larger_margin() {
    let world = World::new();
    let client = client(&world, Way::Margin(secs(2)));
    let start = world.clock.boot();
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    let HoldState::Held { until } = guard.state() else { panic!("{:?}", guard.state()) };
    assert_eq!(until, start + TTL - secs(2));
}

#[tokio::test]
async fn a_ttl_that_grows_counts_from_the_renewal_that_said_so() {
    let world = World::new();
    let client = client(&world, Way::Lengthens(TTL * 3));
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    world.pass(TTL / 2).await;
    assert_eq!(client.ttl(), TTL);
    world.pass(TTL / 4).await;
    assert_eq!(client.ttl(), TTL * 3);
    let HoldState::Held { until } = guard.state() else { panic!("{:?}", guard.state()) };
    let left = until.since(world.clock.boot());
    assert!(left > TTL * 2 && left < TTL * 3, "{left:?}");
}

#[tokio::test]
async fn a_store_that_panics_at_the_opening_is_an_error_and_no_hang() {
    let world = World::new();
    let client = client(&world, Way::PanicsAtOpen);
    let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::ShutDown);
    assert!(error.to_string().contains("the store panicked"), "{error}");
}
