//! A memory store whose calls can be made to fail, and the means to let virtual time pass.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Capabilities, Certainty, Claim, ClaimRef, Claimed, Clock, Domain, Effect, Error,
    ErrorKind, Event, EventSink, LockClient, LockClientBuilder, LockKey, LockState, MemoryBackend, Opened,
    Page, Query, Released, Renewal, Result, Session, SessionId, SessionOptions, Ticket, VirtualClock,
};

pub(crate) const TTL: Duration = Duration::from_secs(10);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A call to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Claim,
    Release,
    Renew,
    Close,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Not applied, and the error says so.
    Refused,
    /// Applied, and the error does not know.
    ReplyLost,
    /// Not applied; no answer ever.
    Silence,
    /// Applied; no answer ever.
    AppliedInSilence,
    /// Applied at once, answered after a while.
    AnsweredAfter(Duration),
    /// Applied after a while.
    AppliedAfter(Duration),
}

/// A store in memory, behind faults.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<MemoryBackend>,
    wires: Arc<Wires>,
}

#[derive(Debug)]
pub(crate) struct Wires {
    clock: VirtualClock,
    faults: Mutex<Vec<(Op, VecDeque<Option<Fault>>)>>,
    counts: [AtomicUsize; 5],
    deaf: Mutex<bool>,
    terse: Mutex<bool>,
    sinks: Mutex<Vec<EventSink>>,
    sessions: Mutex<Vec<(SessionId, Arc<dyn Session>)>>,
    releases: Mutex<Vec<(Ticket, Certainty)>>,
    chunk: usize,
}

/// A client over a faulty store, and everything a test needs to move it.
pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) memory: Arc<MemoryBackend>,
    pub(crate) wires: Arc<Wires>,
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
        let wires = Arc::new(Wires {
            clock: clock.clone(),
            faults: Mutex::default(),
            counts: Default::default(),
            deaf: Mutex::default(),
            terse: Mutex::default(),
            sinks: Mutex::default(),
            sessions: Mutex::default(),
            releases: Mutex::default(),
            chunk,
        });
        let backend = Arc::new(Faulty { inner: memory.clone(), wires: wires.clone() });
        let builder = LockClient::builder(backend).clock(Arc::new(clock.clone())).ttl(TTL);
        let client = configure(builder).build().unwrap();
        World { clock, memory, wires, client }
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

impl Wires {
    /// The next calls of this kind meet these faults, one each.
    pub(crate) fn fail(&self, op: Op, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().map(Some).collect();
        self.faults.lock().unwrap().push((op, faults));
    }

    /// From now on every call of this kind meets this fault.
    pub(crate) fn always(&self, op: Op, fault: Fault) {
        self.fail(op, std::iter::repeat_n(fault, 10_000));
    }

    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
        *self.deaf.lock().unwrap() = false;
    }

    /// Events do not arrive any more.
    pub(crate) fn deafen(&self) {
        *self.deaf.lock().unwrap() = true;
    }

    /// Renewals say nothing of any claim any more.
    pub(crate) fn be_terse(&self) {
        *self.terse.lock().unwrap() = true;
    }

    /// Sends an event to every session of the client.
    pub(crate) fn send(&self, event: &Event) {
        let sinks = self.sinks.lock().unwrap().clone();
        for sink in sinks {
            sink.send(event.clone());
        }
    }

    pub(crate) fn count(&self, op: Op) -> usize {
        self.counts[op as usize].load(Ordering::SeqCst)
    }

    /// What was released, and how certainly.
    pub(crate) fn releases(&self) -> Vec<(Ticket, Certainty)> {
        self.releases.lock().unwrap().clone()
    }

    /// The client's sessions, behind its back.
    pub(crate) fn sessions(&self) -> Vec<(SessionId, Arc<dyn Session>)> {
        self.sessions.lock().unwrap().clone()
    }

    fn next(&self, op: Op) -> Option<Fault> {
        self.counts[op as usize].fetch_add(1, Ordering::SeqCst);
        let mut faults = self.faults.lock().unwrap();
        let queue = faults.iter_mut().find(|(of, queue)| *of == op && !queue.is_empty())?;
        queue.1.pop_front().flatten()
    }

    async fn meet<T>(&self, op: Op, call: impl Future<Output = Result<T>>) -> Result<T> {
        let unknown = || Error::unavailable("the reply was lost").effect(Effect::Unknown);
        match self.next(op) {
            None => call.await,
            Some(Fault::Refused) => Err(Error::new(ErrorKind::Unavailable, "refused")),
            Some(Fault::ReplyLost) => call.await.and_then(|_| Err(unknown())),
            Some(Fault::Silence) => pending().await,
            Some(Fault::AppliedInSilence) => {
                let _ = call.await;
                pending().await
            }
            Some(Fault::AnsweredAfter(time)) => {
                let answer = call.await;
                self.clock.sleep(time).await;
                answer
            }
            Some(Fault::AppliedAfter(time)) => {
                self.clock.sleep(time).await;
                call.await
            }
        }
    }
}

#[async_trait]
impl Backend for Faulty {
    fn info(&self) -> BackendInfo {
        let mut info = self.inner.info();
        info.capabilities = Capabilities::verify_chunk(info.capabilities, self.wires.chunk);
        info
    }

    fn domain(&self, key: &LockKey) -> Domain {
        Domain(u16::from(key.as_str().starts_with("elsewhere")))
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let wires = self.wires.clone();
        self.wires.sinks.lock().unwrap().push(sink.clone());
        let heard = EventSink::new(move |event| {
            if !*wires.deaf.lock().unwrap() {
                sink.send(event);
            }
        });
        let opened = self.wires.meet(Op::Open, self.inner.open(options, heard)).await?;
        self.wires.sessions.lock().unwrap().push((options.id, opened.session.clone()));
        let session = FaultySession { inner: opened.session, wires: self.wires.clone() };
        Ok(Opened::new(Arc::new(session), opened.ttl))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        self.inner.inspect(key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        self.inner.list(query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<lock_core::FencingToken>) -> Result<usize> {
        self.inner.force_release(key, only).await
    }
}

#[derive(Debug)]
struct FaultySession {
    inner: Arc<dyn Session>,
    wires: Arc<Wires>,
}

#[async_trait]
impl Session for FaultySession {
    fn id(&self) -> SessionId {
        self.inner.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let known = if *self.wires.terse.lock().unwrap() { &[] } else { known };
        self.wires.meet(Op::Renew, self.inner.renew(known)).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.wires.meet(Op::Claim, self.inner.claim(claim)).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.wires.releases.lock().unwrap().push((claim.ticket, certainty));
        self.wires.meet(Op::Release, self.inner.release(claim, certainty)).await
    }

    async fn close(&self) -> Result<()> {
        self.wires.meet(Op::Close, self.inner.close()).await
    }
}
