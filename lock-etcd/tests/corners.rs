//! Corners: what a lock in etcd must not do, where the way there is narrow.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_conformance::servers::{Etcd, EtcdSetup};
use lock_core::{
    AcquireOptions, Backend, Certainty, Claim, Claimed, Clock, Connector, Domain, Effect, ErrorKind, Event,
    EventSink, HolderInfo, LockClient, LockKey, Mode, Permit, Query, Released, Result, Session, SessionId,
    SessionOptions, Standing, StoreUrl, SystemClock, Term, Ticket,
};
use lock_etcd::EtcdConnector;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);
/// So many of one session's claims of one lock wait in the store at once.
const CONTENDERS: u64 = 64;

/// A session without an engine, and what it is told.
struct Peer {
    session: Arc<dyn Session>,
    events: UnboundedReceiver<Event>,
}

impl Peer {
    async fn of(backend: &Arc<dyn Backend>) -> Peer {
        let (send, events) = unbounded_channel();
        let sink = EventSink::new(move |event| drop(send.send(event)));
        let id = SessionId::random().unwrap();
        let options = SessionOptions::new(id, Domain(0), TTL, HolderInfo::new(1));
        Peer { session: backend.open(&options, sink).await.unwrap().session, events }
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.session.claim(claim).await
    }

    async fn release(&self, claim: &Claim, certainty: Certainty) -> Released {
        self.session.release(&claim.reference(), certainty).await.unwrap()
    }

    async fn event(&mut self) -> Event {
        within("an event", self.events.recv()).await.unwrap()
    }

    /// As an engine does: claims again whenever it is told to.
    async fn granted(&mut self, claim: &Claim) {
        loop {
            match self.event().await {
                Event::Granted { ticket, .. } if ticket == claim.ticket => return,
                Event::Recheck(ticket)
                    if ticket == claim.ticket && is_granted(&self.claim(claim).await.unwrap()) =>
                {
                    return;
                }
                _ => {}
            }
        }
    }

    async fn waits(&self, claim: &Claim) {
        let claimed = self.claim(claim).await.unwrap();
        assert!(matches!(claimed, Claimed::Queued { .. }), "{claimed:?}");
    }

    async fn holds(&self, claim: &Claim) {
        let claimed = self.claim(claim).await.unwrap();
        assert!(is_granted(&claimed), "{claimed:?}");
    }
}

fn is_granted(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::Granted { .. })
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match lock_core::within(&SystemClock::new(), PATIENCE, future).await {
        Some(done) => done,
        None => panic!("not within {PATIENCE:?}: {what}"),
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            SystemClock::new().sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Lets a future go on until it has to wait.
async fn step<T>(future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending(), "it has not waited");
        Poll::Ready(())
    })
    .await;
}

async fn backend(server: &Etcd) -> Arc<dyn Backend> {
    let mut url = StoreUrl::parse(&format!("etcd://{}", server.address())).unwrap();
    EtcdConnector::new().connect(&mut url).await.unwrap()
}

async fn client(server: &Etcd) -> LockClient {
    LockClient::builder(backend(server).await).build().unwrap()
}

/// The number of a session's lease.
fn lease(peer: &Peer) -> i64 {
    i64::try_from((peer.session.id().as_u128() as u64 & (i64::MAX as u64)).max(1)).unwrap()
}

fn key() -> LockKey {
    LockKey::new("k").unwrap()
}

fn mutex(ticket: u64) -> Claim {
    Claim::new(key(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX)
}

fn at_least(ticket: u64, time: Duration) -> Claim {
    mutex(ticket).term(Term::Session { at_least: time })
}

#[tokio::test]
async fn a_claim_whose_queue_cannot_be_read_is_taken_back() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (one, other) = (Peer::of(&backend).await, Peer::of(&backend).await);
    server.put("fencepost/l/k/damage", "nothing of ours").await.unwrap();
    let error = one.claim(&mutex(1).waiting(true)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Damaged);
    assert_eq!(error.took_effect(), Effect::Unknown, "it is there: whoever asked has to release it");
    assert_eq!(one.release(&mutex(1), Certainty::MaybeInFlight).await, Released::Done);
    server.delete("fencepost/l/k/damage").await.unwrap();
    other.holds(&mutex(2)).await;
}

#[tokio::test]
async fn a_grant_whose_time_cannot_be_begun_is_taken_back() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (one, other) = (Peer::of(&backend).await, Peer::of(&backend).await);
    let before = server.leases().await.unwrap();
    let claim = at_least(1, TTL);
    let mut claiming = Box::pin(one.claim(&claim));
    step(&mut claiming).await;
    let timed = new_lease(&server, &before).await;
    // So late that its time has to begin again.
    SystemClock::new().sleep(Duration::from_millis(1_500)).await;
    step(&mut claiming).await;
    until("the claim is there", async || server.keys("fencepost/l/k/").await.unwrap() > 0).await;
    server.revoke(timed).await.unwrap();
    let error = claiming.await.unwrap_err();
    assert!(!matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    assert_eq!(one.release(&claim, Certainty::MaybeInFlight).await, Released::Done);
    other.holds(&mutex(2)).await;
}

#[tokio::test]
async fn a_time_that_has_ended_too_early_ends_no_session() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let one = Peer::of(&backend).await;
    let before = server.leases().await.unwrap();
    let claim = at_least(1, TTL);
    let mut claiming = Box::pin(one.claim(&claim));
    step(&mut claiming).await;
    let timed = new_lease(&server, &before).await;
    server.revoke(timed).await.unwrap();
    let error = claiming.await.unwrap_err();
    assert!(!matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    one.holds(&claim).await;
}

async fn new_lease(server: &Etcd, before: &[i64]) -> i64 {
    let mut found = None;
    until("another lease", async || {
        let leases = server.leases().await.unwrap();
        found = leases.into_iter().find(|lease| !before.contains(lease));
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Their holders may be in other processes, so that no session hears of their end.
#[tokio::test]
async fn detached_holds_take_no_room_when_they_are_over() {
    let server = Etcd::start().await.unwrap();
    let client = client(&server).await;
    let lock = client.mutex("k").unwrap();
    for _ in 0..2 * CONTENDERS {
        let options = AcquireOptions::new();
        let held = within("a grant", lock.acquire_detached(TTL, &options)).await.unwrap();
        assert!(client.release_detached(held.key, held.token).await.unwrap());
    }
}

#[tokio::test]
async fn one_session_holds_as_much_as_there_is() {
    let server = Etcd::start().await.unwrap();
    let client = client(&server).await;
    let lock = client.rw_lock("k").unwrap();
    let mut guards = Vec::new();
    for _ in 0..2 * CONTENDERS {
        guards.push(within("a grant", lock.read().acquire()).await.unwrap());
    }
    assert!(lock.read().try_acquire().await.unwrap().is_ok(), "readers do not exclude each other");
}

#[tokio::test]
async fn whoever_waits_here_is_told_of_every_place() {
    let server = Etcd::start().await.unwrap();
    let mut peer = Peer::of(&backend(&server).await).await;
    peer.holds(&mutex(0)).await;
    for ticket in 1..=CONTENDERS + 2 {
        peer.waits(&mutex(ticket).waiting(true)).await;
    }
    for ticket in [1, 2] {
        peer.release(&mutex(ticket), Certainty::Settled).await;
    }
    let mut told = Vec::new();
    while told.len() < 2 {
        // Of the others, each hears that its watch began late.
        if let Event::Recheck(Ticket(ticket)) = peer.event().await
            && ticket > CONTENDERS
            && !told.contains(&ticket)
        {
            peer.waits(&mutex(ticket).waiting(true)).await;
            told.push(ticket);
        }
    }
}

/// The renewal was sent before, and its answer comes after.
#[tokio::test]
async fn whoever_enters_during_a_renewal_is_not_gone() {
    let server = Etcd::start().await.unwrap();
    let peer = Peer::of(&backend(&server).await).await;
    peer.holds(&mutex(0)).await;
    let last = CONTENDERS + 1;
    for ticket in 1..=last {
        peer.waits(&mutex(ticket).waiting(true)).await;
    }
    let known = [mutex(last).reference()];
    let mut renewing = Box::pin(peer.session.renew(&known));
    step(&mut renewing).await;
    for ticket in [1, 2] {
        peer.release(&mutex(ticket), Certainty::Settled).await;
    }
    peer.waits(&mutex(last).waiting(true)).await;
    let renewal = renewing.await.unwrap();
    assert!(!matches!(renewal.standings[..], [Standing::Gone]), "{renewal:?}");
}

/// A grant that overtakes the answer to a claim that only looked: that happens every day.
#[tokio::test]
async fn what_cannot_arrive_leaves_nothing_to_forbid_it() {
    let server = Etcd::start().await.unwrap();
    let peer = Peer::of(&backend(&server).await).await;
    peer.holds(&mutex(1)).await;
    assert_eq!(peer.release(&mutex(1), Certainty::MaybeInFlight).await, Released::Done);
    assert_eq!(server.keys("fencepost/t/").await.unwrap(), 0);
    let error = peer.claim(&mutex(1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Withdrawn, "it was withdrawn all the same");
}

#[tokio::test]
async fn a_claim_that_was_ended_and_made_anew_is_told() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (holder, mut waiter) = (Peer::of(&backend).await, Peer::of(&backend).await);
    holder.holds(&mutex(1)).await;
    let claim = mutex(2).waiting(true);
    waiter.waits(&claim).await;
    assert!(server.delete(format!("fencepost/l/k/{:016x}-0", lease(&waiter))).await.unwrap());
    waiter.waits(&claim).await;
    holder.release(&mutex(1), Certainty::Settled).await;
    waiter.granted(&claim).await;
}

/// A token that stands for a password ends, and with it what a stream that was opened with it may do.
#[tokio::test]
async fn watches_outlive_a_token() {
    let server = EtcdSetup::new().password("p").arguments(["--auth-token-ttl=1"]).start().await.unwrap();
    let mut url = StoreUrl::parse(&format!("etcd://root:p@{}", server.address())).unwrap();
    let backend = EtcdConnector::new().connect(&mut url).await.unwrap();
    let (holder, mut waiter) = (Peer::of(&backend).await, Peer::of(&backend).await);
    holder.holds(&mutex(1)).await;
    // Nothing tells that it has ended; the server looks at them once a second.
    SystemClock::new().sleep(Duration::from_secs(4)).await;
    let claim = mutex(2).waiting(true);
    waiter.waits(&claim).await;
    let mut told = 0;
    while told < 5
        && let Some(event) =
            lock_core::within(&SystemClock::new(), Duration::from_secs(1), waiter.events.recv()).await
    {
        told += usize::from(matches!(event, Some(Event::Recheck(_))));
        waiter.waits(&claim).await;
    }
    assert!(told < 5, "asked again and again");
    holder.release(&mutex(1), Certainty::Settled).await;
    waiter.granted(&claim).await;
}

#[test]
fn whoever_waits_is_told_when_the_runtime_of_the_watches_has_ended() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (lasting, short) = (runtime(), runtime());
    // The line is the lasting one's; the stream of the watches is the other's, who opens the first session.
    let (server, backend) = lasting.block_on(async {
        let server = Etcd::start().await.unwrap();
        let backend = backend(&server).await;
        (server, backend)
    });
    let mut waiter = short.block_on(Peer::of(&backend));
    let holder = lasting.block_on(async {
        let holder = Peer::of(&backend).await;
        holder.holds(&mutex(1)).await;
        holder
    });
    let claim = mutex(2).waiting(true);
    short.block_on(waiter.waits(&claim));
    drop(short);
    lasting.block_on(async {
        within("a word", async { while !matches!(waiter.event().await, Event::Recheck(_)) {} }).await;
        waiter.waits(&claim).await;
        holder.release(&mutex(1), Certainty::Settled).await;
        waiter.granted(&claim).await;
        drop(server);
    });
}

/// News of a release that overtake a look that was sent before it.
#[tokio::test]
async fn a_look_that_was_overtaken_by_a_grant_takes_nothing_back() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (holder, mut waiter) = (Peer::of(&backend).await, Peer::of(&backend).await);
    holder.holds(&mutex(1)).await;
    let claim = mutex(2).waiting(true);
    waiter.waits(&claim).await;
    let (known, session) = ([claim.reference()], waiter.session.clone());
    // The watch has begun: its release is news.
    until("a watch", async || {
        let renewal = session.renew(&known).await.unwrap();
        matches!(renewal.standings[..], [Standing::Waits { recheck_in: None }])
    })
    .await;
    let mut looking = Box::pin(session.claim(&claim));
    step(&mut looking).await;
    // Nothing tells that the server has answered the look: nobody reads it yet.
    SystemClock::new().sleep(Duration::from_millis(300)).await;
    holder.release(&mutex(1), Certainty::Settled).await;
    within("the grant", async { while !matches!(waiter.event().await, Event::Granted { .. }) {} }).await;
    let looked = looking.await.unwrap();
    assert!(is_granted(&looked), "{looked:?}");
    let renewal = session.renew(&known).await.unwrap();
    assert!(matches!(renewal.standings[..], [Standing::Holds { .. }]), "{renewal:?}");
}

#[tokio::test]
async fn one_session_that_has_ended_disturbs_no_other() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (ended, mut other) = (Peer::of(&backend).await, Peer::of(&backend).await);
    server.revoke(lease(&ended)).await.unwrap();
    let error = ended.session.renew(&[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    assert!(other.events.try_recv().is_err(), "it has missed nothing");
}

/// Beside locks, under a root that has in itself what stands between a root and its locks.
#[tokio::test]
async fn a_list_reads_what_is_its_own() {
    let server = EtcdSetup::new().password("p").start().await.unwrap();
    server.account("app", "p", "a/l/b/").await.unwrap();
    let mut url = StoreUrl::parse(&format!("etcd://app:p@{}/a/l/b", server.address())).unwrap();
    let backend = EtcdConnector::new().connect(&mut url).await.unwrap();
    Peer::of(&backend).await.holds(&mutex(1)).await;
    assert_eq!(backend.list(&Query::new(None, "", 10)).await.unwrap().keys, [key()]);
}

/// Keys that nobody can name, as many as one look reads.
#[tokio::test]
async fn a_list_does_not_end_at_what_is_not_its_own() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    for number in 0..1_000_u32 {
        server.put([&b"fencepost/l/a/\xff"[..], &number.to_be_bytes()].concat(), "").await.unwrap();
    }
    Peer::of(&backend).await.holds(&mutex(1)).await;
    let page = backend.list(&Query::new(None, "", 10)).await.unwrap();
    assert_eq!(page.keys, [key()]);
}

/// Readers who come all the time, and whoever only tries to be another one.
#[tokio::test]
async fn who_tries_where_there_is_room_gets_it() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (one, other) = (Peer::of(&backend).await, Peer::of(&backend).await);
    let reader = |ticket| Claim::new(key(), Ticket(ticket), Mode::Shared, Permit::READER);
    other.holds(&reader(100)).await;
    let claim = reader(1);
    let mut trying = Box::pin(one.claim(&claim));
    for ticket in 101..150 {
        let answer = poll_fn(|context| Poll::Ready(trying.as_mut().poll(context))).await;
        if let Poll::Ready(claimed) = answer {
            assert!(is_granted(&claimed.unwrap()));
            return;
        }
        other.holds(&reader(ticket)).await;
    }
    panic!("others were quicker, time after time");
}

/// It has taken a place to find out, and gives that back.
#[tokio::test]
async fn who_tries_where_the_last_place_has_gone_leaves_nothing() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (one, other) = (Peer::of(&backend).await, Peer::of(&backend).await);
    let permit = |ticket| {
        let permit = Permit::new(1, 5).unwrap();
        Claim::new(key(), Ticket(ticket), Mode::Shared, permit)
    };
    other.holds(&permit(100)).await;
    let claim = permit(1);
    let mut trying = Box::pin(one.claim(&claim));
    for ticket in 101..105 {
        step(&mut trying).await;
        other.holds(&permit(ticket)).await;
    }
    let claimed = trying.await.unwrap();
    assert!(matches!(claimed, Claimed::Busy(_)), "{claimed:?}");
    assert_eq!(server.keys("fencepost/l/k/").await.unwrap(), 5);
    other.release(&permit(100), Certainty::Settled).await;
    one.holds(&permit(2)).await;
}

/// A thousand of them would read a queue of a thousand each otherwise.
#[tokio::test]
async fn the_end_of_a_writer_lets_readers_in_who_ask_nothing() {
    let server = Etcd::start().await.unwrap();
    let backend = backend(&server).await;
    let (writer, mut readers) = (Peer::of(&backend).await, Peer::of(&backend).await);
    let write = Claim::new(key(), Ticket(100), Mode::Exclusive, Permit::WRITER);
    writer.holds(&write).await;
    let known: Vec<_> = (0..9)
        .map(|ticket| Claim::new(key(), Ticket(ticket), Mode::Shared, Permit::READER).waiting(true))
        .collect();
    for reader in &known {
        readers.waits(reader).await;
    }
    writer.release(&write, Certainty::Settled).await;
    let (mut pushed, mut asked) = (0, 0);
    while pushed + asked < known.len() {
        match readers.event().await {
            Event::Granted { .. } => pushed += 1,
            // Its watch had not begun.
            Event::Recheck(Ticket(ticket)) => {
                asked += usize::from(is_granted(
                    &readers.claim(&known[usize::try_from(ticket).unwrap()]).await.unwrap(),
                ));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pushed > 1, "{asked} of them had to ask");
    let references: Vec<_> = known.iter().map(Claim::reference).collect();
    let renewal = readers.session.renew(&references).await.unwrap();
    assert!(
        renewal.standings.iter().all(|standing| matches!(standing, Standing::Holds { .. })),
        "{renewal:?}"
    );
}
