//! What the server keeps, for how long, and what it is asked.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, Reply, WallClock};
use lock_core::{AcquireOptions, Claimed, Clock, End, LockClient, SessionId, SystemClock, Wait};
use lock_redis::{RedisOptions, redis};
use tokio::task::JoinSet;

use crate::common::{SECOND, calls, mutex, session, session_of};

fn client(server: &Redis, ttl: Duration, idle_after: Duration) -> LockClient {
    let driver = redis::Client::open(server.url()).unwrap();
    let backend = lock_redis::backend(&driver, RedisOptions::new().idle_after(idle_after)).unwrap();
    LockClient::builder(backend).ttl(ttl).build().unwrap()
}

async fn keys(server: &Redis) -> Vec<String> {
    let Reply::List(keys) = server.command(["KEYS", "*"]).await.unwrap() else { panic!() };
    keys.into_iter()
        .map(|key| match key {
            Reply::Text(name) => name,
            other => panic!("{other:?}"),
        })
        .collect()
}

async fn until(limit: Duration, what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + limit;
    while !so().await {
        assert!(clock.boot() < end, "{what} within {limit:?}");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn idle_keys_leave_nothing_behind() {
    let server = Redis::start().await.unwrap();
    let client = client(&server, Duration::from_millis(200), Duration::from_millis(100));
    let catalogue = client.rw_lock("catalogue").unwrap();
    for number in 0..50 {
        client.mutex(format!("k{number}")).unwrap().acquire().await.unwrap().release().await.unwrap();
    }
    // Also a key that somebody waited for.
    let writer = catalogue.write().acquire().await.unwrap();
    let mut readers = JoinSet::new();
    readers.spawn(async move { catalogue.read().acquire().await });
    until(SECOND, "a waiter", async || keys(&server).await.iter().any(|key| key.contains("}:q:"))).await;
    writer.release().await.unwrap();
    readers.join_next().await.unwrap().unwrap().unwrap().release().await.unwrap();
    client.shutdown(SECOND).await;
    // Ten TTLs and what was asked, and the server's own cleaning.
    until(5 * SECOND, "nothing but the clock's mark", async || {
        keys(&server).await == ["fencepost:{00}:clock"]
    })
    .await;
}

/// A process that dies leaves records that nobody renews: of what it held, and of where it waited.
#[tokio::test]
async fn what_the_dead_had_goes_as_well() {
    let server = Redis::start().await.unwrap();
    let driver = redis::Client::open(server.url()).unwrap();
    let options = RedisOptions::new().idle_after(Duration::from_millis(100));
    let backend = lock_redis::backend(&driver, options).unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let session = session(&backend, Duration::from_millis(200)).await;
        answers.push(session.claim(&mutex("k", 1).waiting(true)).await.unwrap());
    }
    assert!(matches!(answers[..], [Claimed::Granted { .. }, Claimed::Queued { .. }]), "{answers:?}");
    until(6 * SECOND, "nothing but the clock's mark", async || {
        keys(&server).await == ["fencepost:{00}:clock"]
    })
    .await;
}

/// The answer to the first opening is lost, the second is sent later: its caller counts from there, and so has the server to.
#[tokio::test]
async fn a_session_that_is_opened_again_has_its_whole_time() {
    let server = Redis::start().await.unwrap();
    let (backend, id) = (common::backend(&server.url()), SessionId::random().unwrap());
    let key = format!("fencepost:{{00}}:s:{id}");
    session_of(&backend, id, 10 * SECOND).await.unwrap();
    assert_eq!(server.command(["PEXPIRE", &key, "3000"]).await.unwrap(), Reply::Number(1));
    session_of(&backend, id, 10 * SECOND).await.unwrap();
    let Reply::Number(left) = server.command(["PTTL", &key]).await.unwrap() else { panic!() };
    assert!(left > 9_000, "{left} ms");
}

/// A record in use outlives what an idle one is given, for as long as its session renews it.
#[tokio::test]
async fn a_record_in_use_stays() {
    let server = Redis::start().await.unwrap();
    let ttl = Duration::from_millis(100);
    let client = client(&server, ttl, Duration::from_millis(1));
    let lock = client.mutex("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + ttl * 25;
    while clock.boot() < end {
        assert!(guard.state().is_held(), "{:?}", guard.state());
        clock.sleep(ttl / 4).await;
    }
    assert_eq!(guard.release().await.unwrap(), End::Released);
}

/// Its record went while the clock was an hour ahead: what was granted under it is remembered.
#[tokio::test]
async fn a_clock_that_was_ahead_brings_no_token_back() {
    const HOUR: i64 = 3600 * 1_000_000;
    let wall = WallClock::new().unwrap();
    let server = RedisSetup::new().wall_clock(&wall).start().await.unwrap();
    let driver = redis::Client::open(server.url()).unwrap();
    let options = RedisOptions::new().idle_after(Duration::from_millis(1));
    let backend = lock_redis::backend(&driver, options).unwrap();
    // Without an engine: it would renew, and so show the server's clock to the mark once more.
    let token = async || {
        let session = session(&backend, Duration::from_millis(100)).await;
        let claimed = session.claim(&mutex("k", 1)).await.unwrap();
        session.close().await.unwrap();
        common::token(&claimed)
    };
    wall.step(HOUR).unwrap();
    let ahead = token().await;
    // A key that has expired is hidden at once, and removed a little later: only then does the clock's step not bring it back.
    let removed = async || server.command(["DBSIZE"]).await.unwrap() == Reply::Number(1);
    until(10 * SECOND, "nothing but the clock's mark", removed).await;
    wall.step(-HOUR).unwrap();
    let next = token().await;
    assert!(next > ahead, "{next} after {ahead}");
}

#[tokio::test]
async fn all_data_flushed_the_holder_is_told_and_tokens_rise() {
    let server = Redis::start().await.unwrap();
    let (one, other) = (client(&server, SECOND, SECOND), client(&server, SECOND, SECOND));
    let held = one.mutex("k").unwrap().acquire().await.unwrap();
    let clock = SystemClock::new();
    let flushed = clock.boot();
    assert_eq!(server.command(["FLUSHALL"]).await.unwrap(), Reply::Text("OK".into()));
    let successor = other.mutex("k").unwrap().acquire().await.unwrap();
    assert!(successor.token() > held.token());
    let end = held.ending().await;
    let took = clock.boot().since(flushed);
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    assert!(took <= SECOND, "told after {took:?}");
}

/// Of a key that nobody has used, and of one that is idle.
#[tokio::test]
async fn one_round_trip_to_acquire_and_one_to_release() {
    let server = Redis::start().await.unwrap();
    let client = client(&server, 10 * SECOND, SECOND);
    client.open().await.unwrap();
    let scripts = async || calls(&server, "evalsha").await;
    for _ in 0..2 {
        let before = scripts().await;
        let guard = client.mutex("k").unwrap().acquire().await.unwrap();
        assert_eq!(scripts().await, before + 1);
        guard.release().await.unwrap();
        assert_eq!(scripts().await, before + 2);
    }
    assert_eq!((calls(&server, "eval").await, calls(&server, "spublish").await), (0, 0));
}

/// Twenty clients that wait two seconds for a holder: they ask once, and nobody is told anything meanwhile.
#[tokio::test]
async fn whoever_waits_does_not_keep_the_server_busy() {
    let server = Redis::start().await.unwrap();
    let (ttl, idle_after) = (10 * SECOND, SECOND);
    let holder = client(&server, ttl, idle_after);
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let clients: Vec<_> = (0..20).map(|_| client(&server, ttl, idle_after)).collect();
    for client in &clients {
        client.open().await.unwrap();
    }
    let mut waiting = JoinSet::new();
    for client in &clients {
        let lock = client.mutex("k").unwrap();
        waiting.spawn(async move {
            lock.acquire_with(&AcquireOptions::new().wait(Wait::AtMost(2 * SECOND))).await
        });
    }
    until(SECOND, "twenty waiters", async || holder.inspect("k").await.unwrap().queue.len() == 20).await;
    let counts = async || {
        [calls(&server, "evalsha").await, calls(&server, "eval").await, calls(&server, "spublish").await]
    };
    let enqueued = counts().await;
    let mut last = enqueued;
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_millis(1_700);
    while clock.boot() < end {
        last = counts().await;
        clock.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(last, enqueued, "while they wait");
    while let Some(done) = waiting.join_next().await {
        assert!(done.unwrap().is_err(), "nobody gave it back");
    }
    // Each leaves the queue by one message; the next head is told, and asks once.
    until(SECOND, "an empty queue", async || holder.inspect("k").await.unwrap().queue.is_empty()).await;
    held.release().await.unwrap();
}
