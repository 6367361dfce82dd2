//! A memory store whose calls can be made to fail, and the means to let virtual time pass.

pub(crate) use lock_core::Operation;
pub(crate) use lock_core::testing::Fault;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::testing::Wire;
use lock_core::{
    Backend, BackendInfo, Capabilities, Certainty, Claim, ClaimRef, Claimed, Clock, Domain, EventSink,
    FencingToken, LockClient, LockClientBuilder, LockKey, LockState, MemoryBackend, Opened, Page, Query,
    Released, Renewal, Result, Session, SessionId, SessionOptions, Ticket, VirtualClock,
};

pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A client over a faulty store, and everything a test needs to move it.
pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) memory: Arc<MemoryBackend>,
    pub(crate) wire: Wire,
    terse: Arc<AtomicBool>,
    pub(crate) client: LockClient,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(|builder| builder)
    }

    pub(crate) fn with(configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder) -> World {
        World::chunked(1000, configure)
    }

    pub(crate) fn chunked(
        chunk: usize,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> World {
        let clock = VirtualClock::new();
        let memory = MemoryBackend::with_clock(Arc::new(clock.clone()));
        let wire = Wire::new(Arc::new(clock.clone()));
        let terse: Arc<AtomicBool> = Arc::default();
        let shaped = Shaped { inner: memory.clone(), chunk, terse: terse.clone() };
        let backend = wire.to(Arc::new(shaped));
        let builder = LockClient::builder(backend).clock(Arc::new(clock.clone())).ttl(TTL);
        let client = configure(builder).build().unwrap();
        World { clock, memory, wire, terse, client }
    }

    /// Renewals say nothing of any claim any more.
    pub(crate) fn be_terse(&self) {
        self.terse.store(true, Ordering::SeqCst);
    }

    /// Another client of the same store, without faults.
    pub(crate) fn neighbour(&self) -> LockClient {
        let clock = Arc::new(self.clock.clone());
        LockClient::builder(self.memory.clone()).clock(clock).ttl(TTL).build().unwrap()
    }

    /// Holds a key by a session that nobody renews: its process is gone, as far as anybody can see.
    pub(crate) async fn hold_silently(&self, key: &str) {
        let info = lock_core::HolderInfo::new(1);
        let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), TTL, info);
        let opened = self.memory.open(&options, EventSink::new(|_| {})).await.unwrap();
        let key = LockKey::new(key).unwrap();
        let claim = Claim::new(key, Ticket(1), lock_core::Mode::Exclusive, lock_core::Permit::MUTEX);
        assert!(matches!(opened.session.claim(&claim).await.unwrap(), Claimed::Granted { .. }));
    }

    /// Lets time pass from timer to timer, with every task run to rest in between.
    pub(crate) async fn pass(&self, time: Duration) {
        let end = self.clock.boot() + time;
        loop {
            rest().await;
            match self.clock.next_timer().filter(|&at| at <= end) {
                Some(at) => self.clock.advance(at.since(self.clock.boot())),
                None => break,
            }
        }
        self.clock.advance(end.since(self.clock.boot()));
        rest().await;
    }

    pub(crate) async fn state(&self, key: &str) -> LockState {
        self.memory.inspect(&LockKey::new(key).unwrap()).await.unwrap()
    }
}

/// Runs every task until none has anything left to do.
pub(crate) async fn rest() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// A future's result, if it has one without time passing.
pub(crate) async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    for _ in 0..64 {
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await;
        match polled {
            std::task::Poll::Ready(value) => return Some(value),
            std::task::Poll::Pending => tokio::task::yield_now().await,
        }
    }
    None
}

/// The memory store in two parts, with a size of chunks of its own.
#[derive(Debug)]
struct Shaped {
    inner: Arc<MemoryBackend>,
    chunk: usize,
    terse: Arc<AtomicBool>,
}

#[async_trait]
impl Backend for Shaped {
    fn info(&self) -> BackendInfo {
        let mut info = self.inner.info();
        info.capabilities = Capabilities::verify_chunk(info.capabilities, self.chunk);
        info
    }

    fn domain(&self, key: &LockKey) -> Domain {
        Domain(u16::from(key.as_str().starts_with("elsewhere")))
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let opened = self.inner.open(options, sink).await?;
        let session = ShapedSession { inner: opened.session, terse: self.terse.clone() };
        Ok(Opened::new(Arc::new(session), opened.ttl))
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

#[derive(Debug)]
struct ShapedSession {
    inner: Arc<dyn Session>,
    terse: Arc<AtomicBool>,
}

#[async_trait]
impl Session for ShapedSession {
    fn id(&self) -> SessionId {
        self.inner.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.inner.renew(if self.terse.load(Ordering::SeqCst) { &[] } else { known }).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.inner.claim(claim).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.inner.release(claim, certainty).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
