//! What seldom happens: copies that come late, locks whose node has gone, claims that somebody else has ended.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::servers::{ZooKeeper, ZooKeeperSetup};
use lock_core::{
    Backend, Certainty, Claim, ClaimRef, Claimed, Clock, Connector, Domain, ErrorKind, Event, EventSink,
    FencingToken, HolderInfo, LockClient, LockKey, Mode, Permit, Reason, Released, Session, SessionId,
    SessionOptions, Standing, StoreUrl, SystemClock, Ticket,
};
use lock_zookeeper::zookeeper_client::{Acls, Client, CreateMode, Error as Driver, MultiWriteError};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

type Events = Arc<Mutex<Vec<Event>>>;

async fn backend(server: &ZooKeeper) -> Arc<dyn Backend> {
    let options = ZooKeeperOptions::new().tick(server.tick());
    let mut url = StoreUrl::parse(&format!("zookeeper://{}", server.address())).unwrap();
    ZooKeeperConnector::with_options(options).connect(&mut url).await.unwrap()
}

async fn session(server: &ZooKeeper) -> (Arc<dyn Session>, Events) {
    let (events, options) = (Events::default(), options(SessionId::random().unwrap()));
    let heard = events.clone();
    let sink = EventSink::new(move |event| heard.lock().unwrap().push(event));
    (backend(server).await.open(&options, sink).await.unwrap().session, events)
}

fn options(id: SessionId) -> SessionOptions {
    SessionOptions::new(id, Domain(0), TTL, HolderInfo::new(1))
}

fn mutex(ticket: u64) -> Claim {
    Claim::new(LockKey::new("k").unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
}

async fn granted(session: &Arc<dyn Session>, ticket: u64) -> FencingToken {
    match session.claim(&mutex(ticket)).await.unwrap() {
        Claimed::Granted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

async fn queued(session: &Arc<dyn Session>, ticket: u64) {
    let claimed = session.claim(&mutex(ticket)).await.unwrap();
    assert!(matches!(claimed, Claimed::Queued { .. }), "{claimed:?}");
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + PATIENCE;
    while !so().await {
        assert!(clock.boot() < end, "{what} does not come");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

async fn told(events: &Events, what: impl Fn(&Event) -> bool) {
    until("an event", async || events.lock().unwrap().iter().any(&what)).await;
}

async fn claims(driver: &Client) -> Vec<String> {
    driver.list_children("/fencepost/locks/k").await.unwrap_or_default()
}

/// As a connection that was given up may carry it to the servers: after the claim has been withdrawn.
#[tokio::test]
async fn a_late_copy_of_a_claim_that_was_withdrawn_is_never_made() {
    let server = ZooKeeper::start().await.unwrap();
    let ((session, _), driver) = (session(&server).await, Client::connect(&server.address()).await.unwrap());
    granted(&session, 1).await;
    session.release(&mutex(1).reference(), Certainty::Settled).await.unwrap();
    let own = format!("/fencepost/sessions/{}", session.id());
    // What a copy of the claim has in it, that is on its way.
    let version = driver.check_stat(&own).await.unwrap().unwrap().version;
    let copy = async || {
        let mut copy = driver.new_multi_writer();
        copy.add_check_version(&own, version).unwrap();
        let name = format!("/fencepost/locks/k/{}.2.x.1.1-", session.id());
        copy.add_create(&name, b"", &CreateMode::EphemeralSequential.with_acls(Acls::anyone_all())).unwrap();
        copy.commit().await
    };
    let given_up = session.release(&mutex(2).reference(), Certainty::MaybeInFlight).await.unwrap();
    assert_eq!(given_up, Released::Gone);
    let late = copy().await.unwrap_err();
    assert!(
        matches!(late, MultiWriteError::OperationFailed { index: 0, source: Driver::BadVersion }),
        "{late:?}"
    );
    assert!(claims(&driver).await.is_empty());
    // Nor one that the engine sends.
    let error = session.claim(&mutex(2)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Withdrawn, "{error}");
    granted(&session, 3).await;
}

/// A copy that took effect although nobody heard of it is found, and is no second contender.
#[tokio::test]
async fn a_claim_that_was_made_unheard_is_given_back_as_well() {
    let server = ZooKeeper::start().await.unwrap();
    let ((session, _), driver) = (session(&server).await, Client::connect(&server.address()).await.unwrap());
    granted(&session, 1).await;
    let name = format!("/fencepost/locks/k/{}.7.x.1.1-", session.id());
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    driver.create(&name, b"", &options).await.unwrap();
    let released = session.release(&mutex(7).reference(), Certainty::MaybeInFlight).await.unwrap();
    assert_eq!((released, claims(&driver).await.len()), (Released::Done, 1));
}

#[tokio::test]
async fn an_idle_locks_node_goes_and_comes_again() {
    let server =
        ZooKeeperSetup::new().property("znode.container.checkIntervalMs", "50").start().await.unwrap();
    let ((session, _), driver) = (session(&server).await, Client::connect(&server.address()).await.unwrap());
    let mut last = None;
    for ticket in 0..5 {
        let token = granted(&session, ticket).await;
        assert!(Some(token) > last, "{token:?} after {last:?}");
        last = Some(token);
        session.release(&mutex(ticket).reference(), Certainty::Settled).await.unwrap();
        until("the end of an idle lock's node", async || {
            driver.check_stat("/fencepost/locks/k").await.unwrap().is_none()
        })
        .await;
    }
}

/// It is removed while claims are on their way: whoever comes too late for it makes it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_goes_again_and_again_is_granted_all_the_same() {
    let server = ZooKeeper::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await).ttl(TTL).build().unwrap();
    let driver = Client::connect(&server.address()).await.unwrap();
    let mut cycles = JoinSet::new();
    for _ in 0..4 {
        let lock = client.mutex("k").unwrap();
        cycles.spawn(async move {
            let mut last = None;
            for _ in 0..100 {
                let guard = lock.acquire().await.unwrap();
                assert!(Some(guard.token()) > last);
                last = Some(guard.token());
                guard.release().await.unwrap();
            }
        });
    }
    let mut gone = 0;
    while !cycles.is_empty() {
        match driver.delete("/fencepost/locks/k", None).await {
            Ok(()) => gone += 1,
            Err(Driver::NotEmpty | Driver::NoNode) => {}
            Err(error) => panic!("{error}"),
        }
        while let Some(done) = cycles.try_join_next() {
            done.unwrap();
        }
    }
    assert!(gone > 0, "it was never idle");
}

#[tokio::test]
async fn a_waiter_that_somebody_ends_waits_again_at_the_end() {
    let server = ZooKeeper::start().await.unwrap();
    let ((one, _), (two, events)) = (session(&server).await, session(&server).await);
    let driver = Client::connect(&server.address()).await.unwrap();
    granted(&one, 1).await;
    queued(&two, 1).await;
    queued(&two, 2).await;
    let own = format!("{}.1.", two.id());
    let name = claims(&driver).await.into_iter().find(|name| name.starts_with(&own)).unwrap();
    driver.delete(&format!("/fencepost/locks/k/{name}"), None).await.unwrap();
    let standings = two.renew(&[mutex(1).reference(), mutex(2).reference()]).await.unwrap().standings;
    assert!(matches!(standings[..], [Standing::Gone, Standing::Waits { .. }]), "{standings:?}");
    // The one behind it is told that what it waited for has gone, and looks.
    told(&events, |event| matches!(event, Event::Recheck(Ticket(2)))).await;
    queued(&two, 2).await;
    queued(&two, 1).await;
    // Nobody else is before it: that this one has gone is the grant.
    one.release(&mutex(1).reference(), Certainty::Settled).await.unwrap();
    told(&events, |event| matches!(event, Event::Granted { ticket: Ticket(2), .. })).await;
    granted(&two, 2).await;
}

#[tokio::test]
async fn without_its_own_node_a_session_is_over() {
    let server = ZooKeeper::start().await.unwrap();
    let driver = Client::connect(&server.address()).await.unwrap();
    let (session, _) = session(&server).await;
    driver.delete(&format!("/fencepost/sessions/{}", session.id()), None).await.unwrap();
    let lost = ErrorKind::SessionLost(Reason::SessionEnded);
    assert_eq!(*session.claim(&mutex(1)).await.unwrap_err().kind(), lost);
    assert_eq!(*session.renew(&[]).await.unwrap_err().kind(), lost);
    assert!(claims(&driver).await.is_empty());
}

/// Nobody could tell it any more that he waits.
#[tokio::test]
async fn without_its_node_for_wishes_a_session_is_over() {
    let server = ZooKeeper::start().await.unwrap();
    let driver = Client::connect(&server.address()).await.unwrap();
    let (session, events) = session(&server).await;
    driver.delete(&format!("/fencepost/wanted/{}", session.id()), None).await.unwrap();
    told(&events, |event| matches!(event, Event::Lost(Reason::SessionEnded))).await;
}

#[tokio::test]
async fn what_is_no_claim_harms_its_own_key_alone() {
    let server = ZooKeeper::start().await.unwrap();
    let ((session, _), driver) = (session(&server).await, Client::connect(&server.address()).await.unwrap());
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    driver.mkdir("/fencepost/locks/other/lock-0000000001", &options).await.unwrap();
    let key = LockKey::new("other").unwrap();
    let other = Claim::new(key, Ticket(1), Mode::Exclusive, Permit::MUTEX).waiting(true);
    let error = session.claim(&other).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("/fencepost/locks/other/lock-0000000001"), "{error}");
    // It was made, and can be given back all the same.
    assert_eq!(session.release(&other.reference(), Certainty::Settled).await.unwrap(), Released::Done);
    granted(&session, 2).await;
}

/// The second one is the answer to a caller who has heard nothing of the first.
#[tokio::test]
async fn a_session_that_is_opened_twice_is_one() {
    let server = ZooKeeper::start().await.unwrap();
    let (backend, id) = (backend(&server).await, SessionId::random().unwrap());
    let opened = async || backend.open(&options(id), EventSink::new(|_| {})).await;
    let (one, two) = (opened().await.unwrap(), opened().await.unwrap());
    let token = granted(&one.session, 1).await;
    assert_eq!((granted(&two.session, 1).await, one.ttl), (token, two.ttl));
    one.session.close().await.unwrap();
    assert_eq!(*opened().await.unwrap_err().kind(), ErrorKind::SessionLost(Reason::SessionEnded));
}

/// One that was begun and given up is in nobody's way.
#[tokio::test]
async fn what_is_left_of_an_opening_that_was_given_up_is_removed() {
    let server = ZooKeeper::start().await.unwrap();
    let (backend, id) = (backend(&server).await, SessionId::random().unwrap());
    backend.open(&options(SessionId::random().unwrap()), EventSink::new(|_| {})).await.unwrap();
    let driver = Client::connect(&server.address()).await.unwrap();
    let left = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    driver.create(&format!("/fencepost/sessions/{id}"), b"", &left).await.unwrap();
    let session = backend.open(&options(id), EventSink::new(|_| {})).await.unwrap().session;
    granted(&session, 1).await;
}

#[tokio::test]
async fn a_time_below_four_ticks_is_refused() {
    let server = ZooKeeper::start().await.unwrap();
    let mut url = StoreUrl::parse(&format!("zookeeper://{}?tick=3s", server.address())).unwrap();
    let backend = ZooKeeperConnector::new().connect(&mut url).await.unwrap();
    let error =
        backend.open(&options(SessionId::random().unwrap()), EventSink::new(|_| {})).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
    for words in ["10s", "4 ticks of 3s", "maxSessionTimeout"] {
        assert!(error.message().contains(words), "{error}");
    }
    let longer = SessionOptions::new(SessionId::random().unwrap(), Domain(0), TTL * 2, HolderInfo::new(1));
    let opened = backend.open(&longer, EventSink::new(|_| {})).await.unwrap();
    assert_eq!((opened.ttl, opened.margin), (TTL * 2, Duration::from_secs(3)));
}

/// Those that hold together are each as good as the other: whoever of them leaves makes room.
#[tokio::test]
async fn whoever_waits_for_permits_hears_of_each_that_comes_free() {
    let server = ZooKeeper::start().await.unwrap();
    let ((holder, _), (waiter, events)) = (session(&server).await, session(&server).await);
    let key = LockKey::new("s").unwrap();
    let permit = |ticket: u64, weight: u32| {
        let permit = Permit::new(weight, 3).unwrap();
        let mode = Mode::Permits { held: weight, of: 3 };
        Claim::new(key.clone(), Ticket(ticket), mode, permit).waiting(true)
    };
    let reference = |ticket: u64| ClaimRef::new(key.clone(), Ticket(ticket));
    for ticket in 1..=3 {
        assert!(matches!(holder.claim(&permit(ticket, 1)).await.unwrap(), Claimed::Granted { .. }));
    }
    assert!(matches!(waiter.claim(&permit(1, 2)).await.unwrap(), Claimed::Queued { .. }));
    for (ticket, is_enough) in [(2, false), (3, true)] {
        events.lock().unwrap().clear();
        holder.release(&reference(ticket), Certainty::Settled).await.unwrap();
        told(&events, |event| matches!(event, Event::Recheck(Ticket(1)))).await;
        let claimed = waiter.claim(&permit(1, 2)).await.unwrap();
        assert_eq!(matches!(claimed, Claimed::Granted { .. }), is_enough, "{claimed:?}");
    }
    assert_eq!(server.number("zk_watch_count").await.unwrap(), 2, "but those for wishes");
}

/// As the suite counts them, and beside that what only the server knows.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_cycles_leave_no_node_no_watch_and_no_task() {
    let server =
        ZooKeeperSetup::new().property("znode.container.checkIntervalMs", "500").start().await.unwrap();
    let client = LockClient::builder(backend(&server).await).ttl(TTL).build().unwrap();
    client.mutex("first").unwrap().acquire().await.unwrap().release().await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let counted = async || {
        let mut numbers = vec![u64::try_from(tasks()).unwrap()];
        for name in ["zk_ephemerals_count", "zk_watch_count", "zk_znode_count"] {
            numbers.push(server.number(name).await.unwrap());
        }
        numbers
    };
    let driver = Client::connect(&server.address()).await.unwrap();
    until("the end of an idle lock's node", async || {
        driver.list_children("/fencepost/locks").await.unwrap().is_empty()
    })
    .await;
    let before = counted().await;
    let mut cycles = JoinSet::new();
    for task in 0..64 {
        let (mutex, permits) =
            (client.mutex(format!("k{}", task % 16)).unwrap(), client.semaphore("s", 4).unwrap());
        cycles.spawn(async move {
            for cycle in 0..157 {
                // Some give up while they wait.
                let guard = match (cycle + task) % 8 {
                    0 => permits.permits(2).unwrap().acquire().await.unwrap(),
                    _ => mutex.acquire().await.unwrap(),
                };
                if cycle % 2 == 0 { drop(guard) } else { guard.release().await.map(drop).unwrap() }
            }
        });
    }
    while let Some(done) = cycles.join_next().await {
        done.unwrap();
    }
    let clock = SystemClock::new();
    let end = clock.boot() + PATIENCE;
    loop {
        let now = counted().await;
        if now == before {
            break;
        }
        assert!(clock.boot() < end, "{before:?}, and now {now:?}");
        clock.sleep(Duration::from_millis(50)).await;
    }
}
