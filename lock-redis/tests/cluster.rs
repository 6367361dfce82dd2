//! A cluster: who has which key, and what happens while that changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{Redis, RedisCluster, RedisClusterSetup, RedisSetup, Reply};
use lock_core::{
    Certainty, Claimed, Clock, Connector, Domain, End, Error, ErrorKind, EventSink, HoldState, HolderInfo,
    LockClient, LockKey, Result, Session, SessionId, SessionOptions, StoreUrl, SystemClock,
};
use lock_redis::RedisConnector;
use tokio::task::JoinSet;

use crate::common::{SECOND, mutex, sleep, token};

async fn client(cluster: &RedisCluster) -> LockClient {
    client_for(cluster, SECOND).await
}

async fn client_for(cluster: &RedisCluster, ttl: Duration) -> LockClient {
    let url = format!("redis+cluster://{}", cluster.nodes()[0].address());
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap();
    LockClient::builder(backend).ttl(ttl).build().unwrap()
}

/// The name of a key's record; which domain a key is in never changes.
fn record(key: &str) -> String {
    let key = LockKey::new(key).unwrap().encoded();
    format!("fencepost:{{{:02x}}}:l:{key}", crc32fast::hash(key.as_bytes()) % 256)
}

/// Another name in the domain of a key.
fn beside(key: &str, name: &str) -> String {
    let (domain, _) =
        record(key).split_once("l:").map(|(domain, rest)| (domain.to_owned(), rest.len())).unwrap();
    domain + name
}

/// A key that this node serves, and the node that is to have it next.
async fn key_of(cluster: &RedisCluster, number: usize) -> (String, Arc<Redis>) {
    let nodes = cluster.nodes();
    for n in 0.. {
        let key = format!("k{n}");
        if cluster.owner(&record(&key)).await.unwrap().port() == nodes[number].port() {
            return (key, nodes[(number + 1) % 3].clone());
        }
    }
    unreachable!("every node has a third of the slots");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_lie_on_all_nodes_and_each_is_locked() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let client = client(&cluster).await;
    let mut guards = Vec::new();
    for number in 0..50 {
        let key = format!("k{number}");
        let guard = client.mutex(&key).unwrap().acquire().await.unwrap();
        assert!(client.mutex(&key).unwrap().try_acquire().await.unwrap().is_err());
        guards.push(guard);
    }
    for node in cluster.nodes() {
        let Reply::List(records) = node.command(["KEYS", "*:l:*"]).await.unwrap() else { unreachable!() };
        assert!(records.len() >= 5, "{} of 50 on {}", records.len(), node.address());
    }
    assert_eq!(client.list("", None, 100).await.unwrap().keys.len(), 50);
    assert_eq!(client.list("", None, 7).await.unwrap().keys.len(), 7);
    for guard in guards {
        assert_eq!(guard.release().await.unwrap(), End::Released);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_takes_its_locks_along() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (key, to) = key_of(&cluster, 0).await;
    let (holder, waiter) = (client(&cluster).await, client(&cluster).await);
    let guard = holder.mutex(&key).unwrap().acquire().await.unwrap();
    let lock = waiter.mutex(&key).unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    wait_for_queue(&holder, &key, 1).await;
    for to in [to, cluster.nodes()[0].clone()] {
        cluster.move_slot_of(&record(&key), &to).await.unwrap();
        is_kept(&guard, 3).await;
        assert_eq!(holder.inspect(&key).await.unwrap().queue.len(), 1);
    }
    let token = guard.token();
    assert_eq!(guard.release().await.unwrap(), End::Released);
    let next = waiting.join_next().await.unwrap().unwrap().unwrap();
    assert!(next.token() > token);
    assert_eq!(next.release().await.unwrap(), End::Released);
}

/// Neither the holder nor the waiter has anything to say for twenty seconds. That the slot has moved is news by itself.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_listens_where_the_slot_has_moved() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (key, to) = key_of(&cluster, 0).await;
    let (holder, waiter) = (client_for(&cluster, 60 * SECOND).await, client_for(&cluster, 60 * SECOND).await);
    let guard = holder.mutex(&key).unwrap().acquire().await.unwrap();
    let lock = waiter.mutex(&key).unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    wait_for_queue(&holder, &key, 1).await;
    let session = holder.inspect(&key).await.unwrap().queue[0].session;
    cluster.move_slot_of(&record(&key), &to).await.unwrap();
    let (clock, channel) = (SystemClock::new(), beside(&key, &format!("e:{session}")));
    let end = clock.boot() + 5 * SECOND;
    while to.command(["PUBSUB", "SHARDCHANNELS", &channel]).await.unwrap() == Reply::List(vec![]) {
        assert!(clock.boot() < end, "it does not listen there");
        sleep(SECOND / 100).await;
    }
    let released = clock.boot();
    assert_eq!(guard.release().await.unwrap(), End::Released);
    let next = waiting.join_next().await.unwrap().unwrap().unwrap();
    let took = clock.boot().since(released);
    assert!(took < SECOND / 5, "{took:?}: it was not told");
    assert_eq!(next.release().await.unwrap(), End::Released);
}

/// Some keys are here and some are there: nothing is granted that is held, and whoever holds it goes on holding it. What decides
/// is which of the keys have gone already; so each order is tried.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_slot_moves_nothing_is_decided_and_nothing_lost() {
    for first in ["session", "record", "both"] {
        let cluster = RedisCluster::start(3).await.unwrap();
        let (key, to) = key_of(&cluster, 0).await;
        let (holder, other) = (client(&cluster).await, client(&cluster).await);
        let guard = holder.mutex(&key).unwrap().acquire().await.unwrap();
        // So that the other has a session in the domain, and knows the key.
        assert!(other.mutex(&key).unwrap().try_acquire().await.unwrap().is_err());
        let (session, lock) = (beside(&key, &format!("s:{}", guard.grant().session)), record(&key));
        let moving = cluster.begin_moving(&lock, &to).await.unwrap();
        match first {
            "session" => moving.migrate(&[&session]).await.unwrap(),
            "record" => moving.migrate(&[&lock]).await.unwrap(),
            _ => moving.migrate(&[&session, &lock]).await.unwrap(),
        }
        // For longer than the lease.
        for _ in 0..15 {
            let error = other.mutex(&key).unwrap().try_acquire().await.unwrap_err();
            assert!(error.is_retryable(), "{first}: {error:?}");
            assert!(error.to_string().contains("being moved"), "{first}: {error}");
            assert!(guard.state().is_held(), "{first}: {:?}", guard.state());
            sleep(SECOND / 10).await;
        }
        moving.migrate_all().await.unwrap();
        moving.finish().await.unwrap();
        is_kept(&guard, 3).await;
        assert!(other.mutex(&key).unwrap().try_acquire().await.unwrap().is_err(), "{first}");
        let token = guard.token();
        assert_eq!(guard.release().await.unwrap(), End::Released);
        let next = other.mutex(&key).unwrap().acquire().await.unwrap();
        assert!(next.token() > token);
    }
}

/// Straight at the store, without an engine that would try again: a claim, a release and a hand-over leave nothing half done.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_moving_slot_refuses_has_changed_nothing() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (key, to) = key_of(&cluster, 1).await;
    let url = format!("redis+cluster://{}", cluster.nodes()[0].address());
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap();
    let domain = backend.domain(&LockKey::new(&key).unwrap());
    let open = async || {
        let options =
            SessionOptions::new(SessionId::random().unwrap(), domain, 60 * SECOND, HolderInfo::new(1));
        backend.open(&options, EventSink::new(|_| {})).await.unwrap().session
    };
    let (one, two): (Arc<dyn Session>, Arc<dyn Session>) = (open().await, open().await);
    let held = token(&one.claim(&mutex(&key, 1)).await.unwrap());
    let queued = two.claim(&mutex(&key, 1).waiting(true)).await.unwrap();
    assert!(matches!(queued, Claimed::Queued { .. }), "{queued:?}");
    let lock = record(&key);
    let moving = cluster.begin_moving(&lock, &to).await.unwrap();
    // What each waiter waits for has gone ahead: a hand-over would find a queue of nobody.
    moving.migrate(&[&beside(&key, &format!("w:{key}"))]).await.unwrap();
    let dump = async || {
        let record = common::text(moving.from(), &["GET", &lock]).await;
        (record, common::text(moving.from(), &["ZCARD", &beside(&key, &format!("q:{key}"))]).await)
    };
    let before = dump().await;
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.took_effect(), error.is_retryable()),
            (&ErrorKind::Unavailable, lock_core::Effect::NotApplied, true),
            "{error:?}"
        );
    };
    refused(one.release(&mutex(&key, 1).reference(), Certainty::Settled).await.map(|_| ()));
    refused(one.release(&mutex(&key, 1).reference(), Certainty::MaybeInFlight).await.map(|_| ()));
    refused(two.claim(&mutex(&key, 1).waiting(true)).await.map(|_| ()));
    refused(two.claim(&mutex(&key, 2)).await.map(|_| ()));
    refused(two.close().await);
    refused(backend.force_release(&LockKey::new(&key).unwrap(), None).await.map(|_| ()));
    refused(backend.inspect(&LockKey::new(&key).unwrap()).await.map(|_| ()));
    assert_eq!(dump().await, before);
    let renewal = one.renew(&[mutex(&key, 1).reference()]).await.unwrap();
    assert!(matches!(renewal.standings[..], [lock_core::Standing::Unknown]), "{renewal:?}");
    moving.migrate_all().await.unwrap();
    moving.finish().await.unwrap();
    one.release(&mutex(&key, 1).reference(), Certainty::Settled).await.unwrap();
    let next = token(&two.claim(&mutex(&key, 1).waiting(true)).await.unwrap());
    assert!(next > held);
}

/// Whatever is in flight when slots move, each answer is that of its own call: nobody holds what another holds, tokens rise, and all
/// goes on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn slots_move_under_load() {
    const KEYS: usize = 12;
    const TASKS: usize = 24;
    let cluster = Arc::new(RedisCluster::start(3).await.unwrap());
    let held: Arc<[AtomicU64; KEYS]> = Arc::default();
    let last: Arc<[AtomicU64; KEYS]> = Arc::default();
    let (stop, cycles) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut working = JoinSet::new();
    for _ in 0..3 {
        let client = client_for(&cluster, 3 * SECOND).await;
        for task in 0..TASKS / 3 {
            let (client, held, last, stop, cycles) =
                (client.clone(), held.clone(), last.clone(), stop.clone(), cycles.clone());
            working.spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let number = (task + round) % KEYS;
                    let guard = match client.mutex(format!("k{number}")).unwrap().acquire().await {
                        Ok(guard) => guard,
                        Err(error) => {
                            assert!(error.is_retryable(), "{error:?}");
                            continue;
                        }
                    };
                    let token = guard.token().get();
                    assert_eq!(held[number].swap(token, Ordering::SeqCst), 0, "two hold k{number}");
                    assert!(last[number].swap(token, Ordering::SeqCst) < token, "k{number}");
                    tokio::task::yield_now().await;
                    assert_eq!(held[number].swap(0, Ordering::SeqCst), token);
                    // What cannot be given back just now is given back by the engine later.
                    if let Err(error) = guard.release().await {
                        assert!(error.is_retryable(), "{error:?}");
                    }
                    cycles.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    }
    for round in 0..4 {
        for number in 0..KEYS {
            let record = record(&format!("k{number}"));
            let owner = cluster.owner(&record).await.unwrap();
            let nodes = cluster.nodes();
            let next = nodes.iter().filter(|node| node.port() != owner.port()).nth((round + number) % 2);
            cluster.move_slot_of(&record, next.unwrap()).await.unwrap();
        }
    }
    let before = cycles.load(Ordering::SeqCst);
    assert!(before > 100, "{before} cycles while slots moved");
    while cycles.load(Ordering::SeqCst) < before + 200 {
        sleep(SECOND / 100).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(worked) = working.join_next().await {
        worked.unwrap();
    }
}

/// A key that nobody has locked before can be locked once its slot has arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_waits_for_its_slot() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (key, to) = key_of(&cluster, 2).await;
    let client = client(&cluster).await;
    let moving = cluster.begin_moving(&record(&key), &to).await.unwrap();
    let error = client.mutex(&key).unwrap().try_acquire().await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("being moved"), "{error}");
    let lock = client.mutex(&key).unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    sleep(SECOND / 5).await;
    moving.migrate_all().await.unwrap();
    moving.finish().await.unwrap();
    let guard = waiting.join_next().await.unwrap().unwrap().unwrap();
    is_kept(&guard, 1).await;
}

/// A session that has died while its slot was moved is told so: nobody keeps alive what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_is_not_kept_alive_on_the_move() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (key, to) = key_of(&cluster, 0).await;
    let client = client(&cluster).await;
    let guard = client.mutex(&key).unwrap().acquire().await.unwrap();
    let session = beside(&key, &format!("s:{}", guard.grant().session));
    let moving = cluster.begin_moving(&record(&key), &to).await.unwrap();
    assert_eq!(moving.from().command(["DEL", &*session]).await.unwrap(), Reply::Number(1));
    let end = guard.ending().await;
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    moving.migrate_all().await.unwrap();
    moving.finish().await.unwrap();
    client.mutex(&key).unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// The node that the URL names is gone: what it had is found at its successor, and the others through each other. All of them
/// refuse to serve meanwhile, as long as a part of the slots has no node: the lease has to be longer than that.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_the_url_may_go() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let client = client_for(&cluster, 10 * SECOND).await;
    let (lost, _) = key_of(&cluster, 0).await;
    let (other, _) = key_of(&cluster, 1).await;
    let guard = client.mutex(&other).unwrap().acquire().await.unwrap();
    cluster.lose_owner(&record(&lost), Loss::Killed).await.unwrap();
    assert!(guard.state().is_held(), "{:?}", guard.state());
    for number in 0..30 {
        let lock = client.mutex(format!("k{number}")).unwrap();
        if lock.key().as_str() != other {
            lock.acquire().await.unwrap().release().await.unwrap();
        }
    }
    is_kept(&guard, 1).await;
}

#[tokio::test]
async fn what_is_no_cluster_says_so() {
    let server = Redis::start().await.unwrap();
    let connect = async |url: String| -> Error {
        RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap_err()
    };
    let error = connect(format!("redis+cluster://{}", server.address())).await;
    assert!(!error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("redis:"), "{error}");
    let cluster = RedisClusterSetup::new().nodes(RedisSetup::new()).primaries(1).start().await.unwrap();
    let backend = common::backend(&cluster.nodes()[0].url());
    let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), SECOND, HolderInfo::new(1));
    // One node has all slots, and so serves whoever takes it for a single server.
    backend.open(&options, EventSink::new(|_| {})).await.unwrap();
    for wrong in [
        "redis+cluster://",
        "redis+cluster://h/0",
        "redis+sentinel://h",
        "redis+sentinel://h/a/b",
        "redis://a,b",
    ] {
        let error = connect(wrong.to_owned()).await;
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{wrong}: {error}");
    }
}

async fn wait_for_queue(client: &LockClient, key: &str, length: usize) {
    while client.inspect(key).await.unwrap().queue.len() != length {
        sleep(SECOND / 100).await;
    }
}

/// Renewed so often, and under its token in the store.
async fn is_kept(guard: &lock_core::Guard, renewals: usize) {
    for _ in 0..renewals {
        let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
            unreachable!("{:?}", guard.state());
        };
        let state = guard.extended(until).await;
        assert!(state.is_held(), "{state:?}");
    }
}
