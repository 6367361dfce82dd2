//! [`Wire`]: any backend, behind calls, replies and events that can be made to go wrong.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Domain, Event, EventSink, Finding, LockState,
    Opened, Page, Query, Released, Renewal, Session, SessionId, SessionOptions, Ticket,
};
use crate::clock::Clock;
use crate::error::{Effect, Error, ErrorKind, Operation, Result};
use crate::key::LockKey;
use crate::token::FencingToken;
use async_trait::async_trait;

/// What happens to one call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    None,
    /// An error of this kind. The call is applied where the effect is [`Effect::Unknown`], and otherwise not.
    Error(ErrorKind, Effect),
    /// It is not applied, and the error says so.
    Refused,
    /// It is applied, and the error does not know.
    ReplyLost,
    /// It is not applied; no answer ever comes.
    Silence,
    /// It is applied; no answer ever comes.
    AppliedInSilence,
    /// It is applied at once, and answered after a while.
    AnsweredAfter(Duration),
    /// It is applied after a while, and then answered.
    AppliedAfter(Duration),
}

/// Makes faults on the way to a backend, and counts what passed.
///
/// ```
/// use std::sync::Arc;
/// use lock_core::testing::{Fault, Wire};
/// use lock_core::{LockClient, MemoryBackend, Operation, SystemClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> lock_core::Result<()> {
/// let wire = Wire::new(Arc::new(SystemClock::new()));
/// let client = LockClient::builder(wire.to(MemoryBackend::new())).build()?;
/// wire.fail(Operation::Claim, [Fault::ReplyLost]);
/// let guard = client.mutex("k")?.acquire().await?;
/// assert_eq!(wire.calls(Operation::Claim), 2, "the retry found its own grant");
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Wire(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    faults: Mutex<Vec<(Operation, VecDeque<Fault>)>>,
    always: Mutex<Vec<(Operation, Fault)>>,
    calls: Mutex<HashMap<Operation, usize>>,
    deaf: Mutex<bool>,
    events: Mutex<Vec<Event>>,
    sinks: Mutex<Vec<EventSink>>,
    sessions: Mutex<Vec<(SessionId, Arc<dyn Session>)>>,
    releases: Mutex<Vec<(Ticket, Certainty)>>,
}

impl Wire {
    /// A wire without faults; what waits on it waits by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Wire {
        Wire(Arc::new(Inner {
            clock,
            faults: Mutex::default(),
            always: Mutex::default(),
            calls: Mutex::default(),
            deaf: Mutex::default(),
            events: Mutex::default(),
            sinks: Mutex::default(),
            sessions: Mutex::default(),
            releases: Mutex::default(),
        }))
    }

    /// The backend at the other end of this wire.
    pub fn to(&self, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        Arc::new(Wired { inner: backend, wire: self.clone() })
    }

    /// The next calls of this kind meet these faults, one each. Calls are [`Open`](Operation::Open),
    /// [`Claim`](Operation::Claim), [`Release`](Operation::Release), [`Renew`](Operation::Renew) and
    /// [`Close`](Operation::Close); others pass.
    pub fn fail(&self, op: Operation, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.0.faults).push((op, faults.into_iter().collect()));
    }

    /// From now on every call of this kind meets this fault, once those are over that were named one by one.
    pub fn always(&self, op: Operation, fault: Fault) {
        lock(&self.0.always).push((op, fault));
    }

    /// Nothing passes any more, in neither direction.
    pub fn cut(&self) {
        self.cut_off(&[
            Operation::Open,
            Operation::Claim,
            Operation::Release,
            Operation::Renew,
            Operation::Close,
        ]);
        self.deafen();
    }

    /// No call of these kinds arrives any more.
    pub fn cut_off(&self, kinds: &[Operation]) {
        for &op in kinds {
            self.always(op, Fault::Silence);
        }
    }

    /// Events do not arrive any more.
    pub fn deafen(&self) {
        *lock(&self.0.deaf) = true;
    }

    /// No faults from now on; calls that hang go on hanging.
    pub fn heal(&self) {
        lock(&self.0.faults).clear();
        lock(&self.0.always).clear();
        *lock(&self.0.deaf) = false;
    }

    /// Sends an event to every session on this wire.
    pub fn send(&self, event: &Event) {
        let sinks = lock(&self.0.sinks).clone();
        for sink in sinks {
            sink.send(event.clone());
        }
    }

    /// How many calls of this kind were made.
    pub fn calls(&self, op: Operation) -> usize {
        lock(&self.0.calls).get(&op).copied().unwrap_or_default()
    }

    /// What the store has told without being asked.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.0.events).clone()
    }

    /// What was released, and how certainly.
    pub fn releases(&self) -> Vec<(Ticket, Certainty)> {
        lock(&self.0.releases).clone()
    }

    /// The sessions that were opened, past the wire: what is done with them happens behind the engine's back.
    pub fn sessions(&self) -> Vec<(SessionId, Arc<dyn Session>)> {
        lock(&self.0.sessions).clone()
    }

    fn next(&self, op: Operation) -> Fault {
        *lock(&self.0.calls).entry(op).or_default() += 1;
        let mut faults = lock(&self.0.faults);
        if let Some((_, queue)) = faults.iter_mut().find(|(of, queue)| *of == op && !queue.is_empty()) {
            return queue.pop_front().unwrap_or(Fault::None);
        }
        drop(faults);
        let always = lock(&self.0.always);
        always.iter().rev().find(|(of, _)| *of == op).map_or(Fault::None, |(_, fault)| fault.clone())
    }

    async fn meet<T>(&self, op: Operation, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next(op) {
            Fault::None => call.await,
            Fault::Error(kind, Effect::NotApplied) => Err(Error::new(kind, "as the test wants it")),
            Fault::Error(kind, effect) => {
                call.await.and_then(|_| Err(Error::new(kind, "as the test wants it").effect(effect)))
            }
            Fault::Refused => Err(Error::new(ErrorKind::Unavailable, "refused")),
            Fault::ReplyLost => {
                call.await.and_then(|_| Err(Error::unavailable("the reply was lost").effect(Effect::Unknown)))
            }
            Fault::Silence => pending().await,
            Fault::AppliedInSilence => {
                let _ = call.await;
                pending().await
            }
            Fault::AnsweredAfter(time) => {
                let answer = call.await;
                self.0.clock.sleep(time).await;
                answer
            }
            Fault::AppliedAfter(time) => {
                self.0.clock.sleep(time).await;
                call.await
            }
        }
    }
}

#[derive(Debug)]
struct Wired {
    inner: Arc<dyn Backend>,
    wire: Wire,
}

#[async_trait]
impl Backend for Wired {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    fn domain(&self, key: &LockKey) -> Domain {
        self.inner.domain(key)
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let wire = self.wire.clone();
        lock(&wire.0.sinks).push(sink.clone());
        let hears = EventSink::new(move |event| {
            lock(&wire.0.events).push(event.clone());
            if !*lock(&wire.0.deaf) {
                sink.send(event);
            }
        });
        let opened = self.wire.meet(Operation::Open, self.inner.open(options, hears)).await?;
        lock(&self.wire.0.sessions).push((options.id, opened.session.clone()));
        let session = WiredSession { inner: opened.session, wire: self.wire.clone() };
        Ok(Opened::new(Arc::new(session), opened.ttl).margin(opened.margin))
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        self.inner.probe().await
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
struct WiredSession {
    inner: Arc<dyn Session>,
    wire: Wire,
}

#[async_trait]
impl Session for WiredSession {
    fn id(&self) -> SessionId {
        self.inner.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.wire.meet(Operation::Renew, self.inner.renew(known)).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.wire.meet(Operation::Claim, self.inner.claim(claim)).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        lock(&self.wire.0.releases).push((claim.ticket, certainty));
        self.wire.meet(Operation::Release, self.inner.release(claim, certainty)).await
    }

    async fn close(&self) -> Result<()> {
        self.wire.meet(Operation::Close, self.inner.close()).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
