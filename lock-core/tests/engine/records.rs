//! The adapter for stores of records, over one whose sessions cannot be seen for a while, and whose records can be damaged.
use crate::support::{TTL, rest, secs};
use async_trait::async_trait;
use lock_core::records::{RecordSession, RecordStore, Records, Sight, Version, Versioned, Written};
use lock_core::table::{Input, Notice, SessionCommand, SessionOutcome, SessionRecord};
use lock_core::{
    AcquireOptions, Backend, BackendInfo, Capabilities, Certainty, Claim, Clock, Domain, Error, Event,
    EventSink, HolderInfo, LockClient, LockKey, Mode, Page, Permit, Query, Released, Result, RetryPolicy,
    SessionId, SessionOptions, Term, Ticket, VirtualClock, Wait,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Debug)]
struct Shelf {
    state: Arc<Mutex<Contents>>,
    clock: VirtualClock,
    blind: Arc<AtomicBool>,
    damaged: Arc<Mutex<Option<LockKey>>>,
}
#[derive(Debug, Default)]
struct Contents {
    keys: BTreeMap<LockKey, (Version, Vec<u8>)>,
    sessions: HashMap<SessionId, (SessionRecord, EventSink)>,
}
impl Shelf {
    fn new(clock: &VirtualClock) -> Shelf {
        Shelf { state: Arc::default(), clock: clock.clone(), blind: Arc::default(), damaged: Arc::default() }
    }
    fn now(&self) -> u64 {
        self.clock.boot().as_nanos() / 1000
    }
    fn step(&self, session: SessionId, command: SessionCommand) -> bool {
        let now = self.now();
        match self.state.lock().unwrap().sessions.get_mut(&session) {
            Some((record, _)) => matches!(record.apply(now, command), SessionOutcome::Lives { .. }),
            None => false,
        }
    }
}
#[async_trait]
impl RecordStore for Shelf {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("shelf", "shelf:", Capabilities::new().fair().push().fixed_terms())
    }
    async fn input(&self) -> Result<Input> {
        Ok(Input { now: self.now(), proposed_token: self.clock.wall_micros() })
    }
    async fn read(&self, key: &LockKey) -> Result<Versioned> {
        let (version, mut bytes) =
            self.state.lock().unwrap().keys.get(key).cloned().unwrap_or((Version(0), Vec::new()));
        if self.damaged.lock().unwrap().as_ref() == Some(key) {
            bytes = vec![0xff];
        }
        Ok(Versioned { version, bytes, floor: 0 })
    }
    async fn write(&self, key: &LockKey, expected: Version, record: &[u8]) -> Result<Written> {
        let mut contents = self.state.lock().unwrap();
        let (version, bytes) = contents.keys.get(key).cloned().unwrap_or((Version(0), Vec::new()));
        if version != expected {
            return Ok(Written::Conflict(Versioned { version, bytes, floor: 0 }));
        }
        contents.keys.insert(key.clone(), (Version(version.0 + 1), record.to_vec()));
        Ok(Written::Done)
    }
    async fn list(&self, _: &Query) -> Result<Page> {
        Ok(Page::new(Vec::new(), None))
    }
    fn place(&self, key: &LockKey) -> String {
        key.encoded()
    }
    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Arc<dyn RecordSession>> {
        let record =
            SessionRecord::open(options.id, self.now(), options.ttl.as_micros() as u64, options.info.clone());
        self.state.lock().unwrap().sessions.entry(options.id).or_insert((record, sink));
        Ok(Arc::new(Reader { shelf: self.clone(), id: options.id, ttl: options.ttl }))
    }
    async fn sight(&self, session: SessionId) -> Result<Sight> {
        // As lock-file without a descriptor left (EMFILE): Unavailable, nothing applied by *this* call.
        if self.blind.load(Ordering::SeqCst) {
            return Err(Error::unavailable("no descriptors left"));
        }
        let now = self.now();
        Ok(match self.state.lock().unwrap().sessions.get(&session) {
            Some((record, _)) if !record.is_ended() && record.expires_at() > now => {
                Sight::living(Duration::from_micros(record.expires_at() - now), record.info().clone())
            }
            _ => Sight::over(),
        })
    }
    async fn end_if_over(&self, session: SessionId) -> Result<bool> {
        Ok(self.step(session, SessionCommand::EndIfExpired))
    }
    async fn notify(&self, key: &LockKey, notice: &Notice) {
        let sink = self.state.lock().unwrap().sessions.get(&notice.session).map(|(_, sink)| sink.clone());
        if let Some(sink) = sink {
            sink.send(Event::from_notice(key, notice));
        }
    }
}
#[derive(Debug)]
struct Reader {
    shelf: Shelf,
    id: SessionId,
    ttl: Duration,
}
#[async_trait]
impl RecordSession for Reader {
    fn id(&self) -> SessionId {
        self.id
    }
    fn ttl(&self) -> Duration {
        self.ttl
    }
    async fn renew(&self) -> Result<bool> {
        self.shelf.step(self.id, SessionCommand::EndIfExpired);
        Ok(self.shelf.step(self.id, SessionCommand::Renew))
    }
    async fn lives(&self) -> Result<bool> {
        Ok(self.shelf.step(self.id, SessionCommand::EndIfExpired))
    }
    async fn close(&self) -> Result<()> {
        self.shelf.step(self.id, SessionCommand::End);
        Ok(())
    }
}

async fn pass(clock: &VirtualClock, time: Duration) {
    let end = clock.boot() + time;
    loop {
        rest().await;
        match clock.next_timer().filter(|&at| at <= end) {
            Some(at) => clock.advance(at.since(clock.boot())),
            None => break,
        }
    }
    clock.advance(end.since(clock.boot()));
    rest().await;
}

fn client(shelf: &Shelf) -> LockClient {
    LockClient::builder(Arc::new(Records::new(shelf.clone())))
        .clock(Arc::new(shelf.clock.clone()))
        .ttl(TTL)
        .retry(RetryPolicy::none())
        .build()
        .unwrap()
}

/// The claim was written; what failed was to look at the holder for the answer. It is withdrawn, or its place would be
/// nobody's for ever.
#[tokio::test]
async fn a_claim_that_was_applied_is_withdrawn_when_its_answer_is_an_error() {
    let clock = VirtualClock::new();
    let shelf = Shelf::new(&clock);
    let (one, two) = (client(&shelf), client(&shelf));
    let guard = one.mutex("k").unwrap().acquire().await.unwrap();
    two.open().await.unwrap();
    shelf.blind.store(true, Ordering::SeqCst);
    let lock = two.mutex("k").unwrap();
    let waiter =
        tokio::spawn(
            async move { lock.acquire_with(&AcquireOptions::new().wait(Wait::AtMost(secs(1)))).await },
        );
    pass(&clock, secs(1)).await;
    let _ = waiter.await.unwrap();
    shelf.blind.store(false, Ordering::SeqCst);
    guard.release().await.unwrap();
    pass(&clock, TTL * 20).await;
    let tried = one.mutex("k").unwrap().try_acquire().await.unwrap();
    assert!(tried.is_ok(), "nobody holds it, 20 TTLs later: {tried:?}");
}

/// what is wrong with one key, or with the sight of another's session, ends every hold of the process.
#[tokio::test]
async fn one_key_that_cannot_be_read_does_not_end_the_others() {
    let clock = VirtualClock::new();
    let shelf = Shelf::new(&clock);
    let one = client(&shelf);
    let good = one.mutex("good").unwrap().acquire().await.unwrap();
    let bad = one.mutex("bad").unwrap().acquire().await.unwrap();
    *shelf.damaged.lock().unwrap() = Some(bad.key().clone());
    pass(&clock, TTL * 2).await;
    assert!(good.state().is_held(), "{:?}", good.state());
}

#[tokio::test]
async fn a_head_that_cannot_see_the_holder_keeps_what_its_session_holds() {
    let clock = VirtualClock::new();
    let shelf = Shelf::new(&clock);
    let (one, two) = (client(&shelf), client(&shelf));
    let _holder = one.mutex("k").unwrap().acquire().await.unwrap();
    let other = two.mutex("other").unwrap().acquire().await.unwrap();
    let lock = two.mutex("k").unwrap();
    let _waiter = tokio::spawn(async move { lock.acquire().await });
    pass(&clock, secs(1)).await;
    shelf.blind.store(true, Ordering::SeqCst);
    pass(&clock, TTL * 2).await;
    assert!(other.state().is_held(), "{:?}", other.state());
}

/// a write of the claim that was sent, and arrives after the release was acknowledged.
#[tokio::test]
async fn after_a_release_no_earlier_copy_of_its_claim_takes_effect() {
    let clock = VirtualClock::new();
    let shelf = Shelf::new(&clock);
    let backend = Records::new(shelf.clone());
    let id = SessionId::random().unwrap();
    let opened = backend
        .open(&SessionOptions::new(id, Domain(0), TTL, HolderInfo::new(1)), EventSink::new(|_| {}))
        .await
        .unwrap();
    let key = LockKey::new("k").unwrap();
    let claim =
        Claim::new(key.clone(), Ticket(1), Mode::Exclusive, Permit::MUTEX).term(Term::Fixed(secs(3600)));
    // What the claim's conditional write would be: it has left, and is delayed.
    let (version, delayed) = {
        let twin = Shelf::new(&clock);
        let other = Records::new(twin.clone());
        let session = other
            .open(&SessionOptions::new(id, Domain(0), TTL, HolderInfo::new(1)), EventSink::new(|_| {}))
            .await
            .unwrap()
            .session;
        session.claim(&claim).await.unwrap();
        (Version(0), twin.read(&key).await.unwrap().bytes)
    };
    // The session ends, then the engine settles the unknown claim (`outlives`).
    opened.session.close().await.unwrap();
    assert_eq!(
        opened.session.release(&claim.reference(), Certainty::MaybeInFlight).await.unwrap(),
        Released::Gone
    );
    let _ = shelf.write(&key, version, &delayed).await;
    let state = backend.inspect(&key).await.unwrap();
    assert!(state.is_idle(), "ownerless for an hour: {state:?}");
}
