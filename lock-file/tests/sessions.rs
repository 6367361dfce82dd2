//! Sessions of one process, through the traits that the engine uses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Client, LONG, Place, granted, mutex, queued, until};
use lock_core::records::RecordStore;
use lock_core::{
    BootTime, Certainty, Claimed, Clock, ErrorKind, Event, FencingToken, Pause, Released, SessionId,
    Standing, Term, Ticket, VirtualClock,
};
use lock_file::{FileOptions, FileStore};

#[tokio::test]
async fn one_holds_and_the_others_are_served_in_order() {
    let place = Place::new();
    let backend = place.backend();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::open(&backend, LONG).await);
    }
    let mut last = clients[0].take("k", 1).await;
    for waiter in &clients[1..] {
        assert!(matches!(waiter.claim("k", 1, false).await, Claimed::Busy(_)));
        queued(waiter.claim("k", 1, true).await);
    }
    for turn in 0..3 {
        assert_eq!(clients[turn].release("k", 1).await, Released::Done);
        // Whoever is next is told by push; a new head may have been told before to look after itself.
        loop {
            match clients[turn + 1].next_event().await {
                Event::Granted { ticket: Ticket(1), token, .. } => {
                    assert!(token > last);
                    last = token;
                    break;
                }
                Event::Recheck(Ticket(1)) | Event::Wanted(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(granted(clients[turn + 1].claim("k", 1, true).await), last, "a claim finds its own grant");
    }
}

#[tokio::test]
async fn the_holder_is_told_that_it_is_wanted() {
    let place = Place::new();
    let backend = place.backend();
    let (mut a, b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    a.take("k", 7).await;
    queued(b.claim("k", 1, true).await);
    assert!(matches!(a.next_event().await, Event::Wanted(claim) if claim.ticket == Ticket(7)));
}

#[tokio::test]
async fn forced_release_tells_the_holder_and_grants_to_the_next() {
    let place = Place::new();
    let backend = place.backend();
    let (mut a, mut b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    let token = a.take("k", 1).await;
    queued(b.claim("k", 1, true).await);
    let key = mutex("k", 1).key;
    assert_eq!(backend.force_release(&key, Some(FencingToken::new(1).unwrap())).await.unwrap(), 0);
    assert_eq!(backend.force_release(&key, Some(token)).await.unwrap(), 1);
    assert!(matches!(b.next_event().await, Event::Granted { .. }));
    loop {
        match a.next_event().await {
            Event::Revoked(Ticket(1), _) => break,
            Event::Wanted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let renewal = a.session.renew(&[mutex("k", 1).reference()]).await.unwrap();
    assert!(matches!(renewal.standings[..], [Standing::Gone]));
}

#[tokio::test]
async fn a_closed_session_frees_its_locks_and_wakes_who_watches() {
    let place = Place::new();
    let backend = place.backend();
    let (a, mut b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    a.take("k", 1).await;
    queued(b.claim("k", 1, true).await);
    // The watch opens the pipe before it is closed.
    tokio::task::yield_now().await;
    a.session.close().await.unwrap();
    assert!(matches!(b.next_event().await, Event::Recheck(Ticket(1))), "the pipe's end is noticed");
    granted(b.claim("k", 1, true).await);
    let error = a.session.renew(&[]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)));
    let error = a.session.claim(&mutex("k2", 2)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
}

#[tokio::test]
async fn a_dropped_session_is_over() {
    let place = Place::new();
    let backend = place.backend();
    let (a, mut b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    a.take("k", 1).await;
    queued(b.claim("k", 1, true).await);
    drop(a);
    b.acquire("k", 1).await;
}

#[tokio::test]
async fn opening_again_finds_the_same_session_and_never_revives_one() {
    let place = Place::new();
    let backend = place.backend();
    let id = SessionId::from_u128(42);
    let first = Client::open_as(&backend, id, LONG).await;
    let token = first.take("k", 1).await;
    let again = Client::open_as(&backend, id, LONG).await;
    assert_eq!(again.take("k", 1).await, token);
    first.session.close().await.unwrap();
    let error = again.session.claim(&mutex("k", 2)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
}

#[tokio::test]
async fn a_session_that_somebody_ended_never_comes_back() {
    let place = Place::new();
    let backend = place.backend();
    let a = Client::open(&backend, LONG).await;
    a.take("k", 1).await;
    a.session.renew(&[]).await.unwrap();
    let record = place.path().join("sessions").join(a.session.id().to_string());
    std::fs::remove_file(record).unwrap();
    for _ in 0..2 {
        let error = a.session.renew(&[]).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    }
    assert!(a.session.claim(&mutex("k2", 2)).await.is_err());
    Client::open(&backend, LONG).await.take("k", 1).await;
}

#[tokio::test]
async fn a_session_expires_at_its_deadline_and_not_before() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let backend = place.backend_with(FileOptions::new().clock(Arc::new(clock.clone())));
    let ttl = Duration::from_secs(10);
    let (a, b) = (Client::open(&backend, ttl).await, Client::open(&backend, LONG).await);
    a.take("k", 1).await;
    clock.advance(Duration::from_secs(6));
    a.session.renew(&[]).await.unwrap();
    // The machine's sleep counts, the wall clock does not.
    clock.step_wall(3_600_000_000);
    clock.suspend(Duration::from_micros(9_999_999));
    assert!(matches!(b.claim("k", 1, false).await, Claimed::Busy(_)));
    clock.advance(Duration::from_micros(1));
    let error = a.session.claim(&mutex("other", 2)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "its owner stops first: {error}");
    clock.advance(Duration::from_millis(2));
    b.take("k", 1).await;
    assert!(a.session.renew(&[]).await.is_err());
}

#[tokio::test]
async fn a_late_renewal_does_not_count_even_if_nobody_noticed() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let backend = place.backend_with(FileOptions::new().clock(Arc::new(clock.clone())));
    let a = Client::open(&backend, Duration::from_secs(10)).await;
    clock.advance(Duration::from_secs(10));
    assert!(a.session.renew(&[]).await.is_err());
    assert!(place.session_files().is_empty(), "it ended itself");
}

#[tokio::test]
async fn the_head_is_told_when_to_look_again() {
    let place = Place::new();
    let backend = place.backend();
    let ttl = Duration::from_secs(30);
    let (a, b) = (Client::open(&backend, ttl).await, Client::open(&backend, LONG).await);
    let c = Client::open(&backend, LONG).await;
    a.take("k", 1).await;
    let recheck = queued(b.claim("k", 1, true).await).unwrap();
    assert!(recheck > Duration::from_secs(25) && recheck <= ttl + Duration::from_millis(50), "{recheck:?}");
    assert_eq!(queued(c.claim("k", 1, true).await), None, "only the head");
}

#[tokio::test]
async fn waiting_behind_a_fixed_hold_of_the_dead_does_not_spin() {
    let place = Place::new();
    let backend = place.backend();
    let (a, mut b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    let detached = mutex("k", 1).term(Term::Fixed(Duration::from_secs(40)));
    granted(a.session.claim(&detached).await.unwrap());
    a.session.close().await.unwrap();
    let recheck = queued(b.claim("k", 1, true).await).unwrap();
    assert!(recheck > Duration::from_secs(35), "{recheck:?}");
    lock_core::SystemClock::new().sleep(Duration::from_millis(50)).await;
    assert!(b.events.try_recv().is_err(), "nothing has changed");
}

#[tokio::test]
async fn what_the_dead_left_is_swept() {
    let place = Place::new();
    let backend = place.backend();
    for _ in 0..5 {
        drop(Client::open(&backend, LONG).await);
    }
    let fresh = place.path().join("sessions").join(format!("{:032x}.pipe", 7));
    rustix::fs::mknodat(rustix::fs::CWD, &fresh, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // The readers of the dropped sessions end when the runtime gets to them.
    tokio::task::yield_now().await;
    until("the sweep", || {
        let alive = at_once(Client::open(&backend, LONG));
        drop(alive);
        place.session_files().len() <= 5
    })
    .await;
    assert!(fresh.exists(), "a young pipe may be about to get its record");
}

type Hook = Box<dyn FnOnce() + Send>;

/// A clock that does something at one of its readings, before it is read.
#[derive(Clone)]
struct Hooked {
    time: VirtualClock,
    hook: Arc<Mutex<Option<Hook>>>,
    /// How many readings before that one.
    after: Arc<AtomicUsize>,
}

impl Hooked {
    fn new(time: &VirtualClock) -> Hooked {
        Hooked { time: time.clone(), hook: Arc::default(), after: Arc::default() }
    }

    fn at_reading(&self, number: usize, hook: impl FnOnce() + Send + 'static) {
        self.after.store(number, Ordering::SeqCst);
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn is_done(&self) -> bool {
        self.hook.lock().unwrap().is_none()
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Clock for Hooked {
    fn boot(&self) -> BootTime {
        let mut hook = self.hook.lock().unwrap();
        if hook.is_some() && self.after.fetch_sub(1, Ordering::SeqCst) == 1 {
            let hook = hook.take().unwrap();
            hook();
        }
        drop(hook);
        self.time.boot()
    }

    fn wall_micros(&self) -> u64 {
        self.time.wall_micros()
    }

    fn sleep(&self, time: Duration) -> Pause {
        self.time.sleep(time)
    }

    fn wake_at(&self, at: BootTime) -> Pause {
        self.time.wake_at(at)
    }
}

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_renewal_in_the_middle_of_a_judgement_saves_the_session() {
    let (place, time) = (Place::new(), VirtualClock::new());
    let clock = Hooked::new(&time);
    let owner = place.backend_with(FileOptions::new().clock(Arc::new(time.clone())));
    let judge = FileStore::open(place.path(), FileOptions::new().clock(Arc::new(clock.clone()))).unwrap();
    for reading in 1.. {
        let session = Client::open(&owner, TTL).await.session;
        let id = session.id();
        time.advance(TTL - Duration::from_micros(1));
        let (renewing, later) = (session.clone(), time.clone());
        clock.at_reading(reading, move || {
            at_once(renewing.renew(&[])).unwrap();
            later.advance(Duration::from_millis(2));
        });
        let lives = judge.end_if_over(id).await.unwrap();
        if !clock.is_done() {
            assert!(reading > 1, "no judgement without a clock");
            break;
        }
        assert!(lives, "ended at reading {reading}, although it had been renewed in time");
        session.renew(&[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_judgement_in_the_middle_of_a_renewal_stands() {
    let (place, time) = (Place::new(), VirtualClock::new());
    let clock = Hooked::new(&time);
    let owner = place.backend_with(FileOptions::new().clock(Arc::new(clock.clone())));
    let options = FileOptions::new().clock(Arc::new(time.clone()));
    let judge = Arc::new(FileStore::open(place.path(), options).unwrap());
    let mut judged_over = 0;
    // A judge that is quick, and one that has seen that it is over and will end it a moment later.
    for (reading, quick) in (1..).flat_map(|reading| [(reading, true), (reading, false)]) {
        let session = Client::open(&owner, TTL).await.session;
        let id = session.id();
        let (lived, later, judging) = (Arc::new(AtomicBool::new(true)), time.clone(), judge.clone());
        let verdict = lived.clone();
        clock.at_reading(reading, move || {
            later.advance(TTL + Duration::from_millis(1));
            let lives = at_once(judging.sight(id)).unwrap().lives;
            if quick {
                at_once(judging.end_if_over(id)).unwrap();
            }
            verdict.store(lives, Ordering::SeqCst);
        });
        let renewed = session.renew(&[]).await.is_ok();
        if !clock.is_done() {
            assert!(reading > 3, "the clock is read before the write, for the stamp, and after the write");
            break;
        }
        let lived = lived.load(Ordering::SeqCst);
        assert!(lived || !renewed, "at reading {reading} it was found over, and renewed all the same");
        assert!(!renewed, "at reading {reading} its deadline had passed");
        assert!(!judge.end_if_over(id).await.unwrap(), "and it stays over");
        judged_over += usize::from(!lived);
    }
    assert!(judged_over > 0);
}

/// Drives a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("it waited"),
    }
}

#[tokio::test]
async fn a_withdrawn_claim_never_takes_effect() {
    let place = Place::new();
    let backend = place.backend();
    let a = Client::open(&backend, LONG).await;
    let claim = mutex("k", 1);
    a.session.release(&claim.reference(), Certainty::MaybeInFlight).await.unwrap();
    let error = a.session.claim(&claim).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Withdrawn);
}

#[tokio::test]
async fn at_least_keeps_the_key_after_release() {
    let place = Place::new();
    let clock = VirtualClock::new();
    let backend = place.backend_with(FileOptions::new().clock(Arc::new(clock.clone())));
    let (a, b) = (Client::open(&backend, LONG).await, Client::open(&backend, LONG).await);
    let claim = mutex("k", 1).term(Term::Session { at_least: Duration::from_secs(5) });
    granted(a.session.claim(&claim).await.unwrap());
    a.release("k", 1).await;
    a.session.close().await.unwrap();
    clock.advance(Duration::from_micros(4_999_999));
    assert!(matches!(b.claim("k", 1, false).await, Claimed::Busy(_)));
    clock.advance(Duration::from_micros(1));
    b.take("k", 1).await;
}
