//! Connections that break, and are made anew.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::proxy::Proxy;
use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_core::{Clock, Connector, ErrorKind, LockClient, Secret, StoreUrl, SystemClock};
use lock_redis::{Credentials, RedisConnector, RedisOptions, redis};
use tokio::task::JoinSet;

use crate::common::{SECOND, client, session, sleep};

/// Wherever it falls between the end of one connection and the subscription of the next.
#[tokio::test]
async fn a_grant_between_two_connections_is_not_missed() {
    let server = Redis::start().await.unwrap();
    let proxy = Proxy::to(server.address()).await.unwrap();
    let holder = client(&server.url(), 30 * SECOND);
    let waiter = client(&format!("redis://{}", proxy.address()), 30 * SECOND);
    waiter.open().await.unwrap();
    for round in 0..30_u64 {
        let held = holder.mutex("k").unwrap().acquire().await.unwrap();
        let lock = waiter.mutex("k").unwrap();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { lock.acquire().await });
        while holder.inspect("k").await.unwrap().queue.is_empty() {
            sleep(SECOND / 500).await;
        }
        proxy.reset_all();
        sleep(Duration::from_micros(200 * round)).await;
        held.release().await.unwrap();
        let clock = SystemClock::new();
        let released = clock.boot();
        let guard = waiting.join_next().await.unwrap().unwrap().unwrap();
        let took = clock.boot().since(released);
        assert!(took < SECOND, "round {round}: {took:?}");
        guard.release().await.unwrap();
    }
}

/// What it cannot read because nobody is there is not "unknown": strict mode would be content.
#[tokio::test]
async fn the_probe_of_a_server_that_is_gone_is_an_error() {
    let server = Redis::start().await.unwrap();
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&server.url()).unwrap()).await.unwrap();
    server.kill().await.unwrap();
    let found = backend.probe().await;
    assert!(found.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Unavailable), "{found:?}");
}

/// A heartbeat waits no longer than a third of the TTL, and the next goes on where it gave up.
#[tokio::test]
async fn a_connection_that_takes_longer_than_a_heartbeat_comes_about() {
    let server = RedisSetup::new().password("secret").start().await.unwrap();
    let proxy = Proxy::to(server.address()).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let options = RedisOptions::new().credentials(move || {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            sleep(if first { Duration::ZERO } else { SECOND }).await;
            Ok(Credentials::new(None, Secret::from("secret")))
        }
    });
    let driver = redis::Client::open(format!("redis://{}", proxy.address())).unwrap();
    let client =
        LockClient::builder(lock_redis::backend(&driver, options).unwrap()).ttl(2 * SECOND).build().unwrap();
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    proxy.reset_all();
    let clock = SystemClock::new();
    let end = clock.boot() + 4 * SECOND;
    while clock.boot() < end {
        assert!(!matches!(guard.state(), lock_core::HoldState::Ended(_)), "{:?}", guard.state());
        sleep(SECOND / 20).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "one dialing after the reset");
}

/// A session that is over is not listened to any more, and the server knows it.
#[tokio::test]
async fn closing_leaves_no_subscription() {
    let server = Redis::start().await.unwrap();
    let backend = common::backend(&server.url());
    let sessions = [session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await];
    let channels = async || match server.command(["PUBSUB", "SHARDCHANNELS"]).await.unwrap() {
        Reply::List(channels) => channels.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(channels().await, 2);
    for session in sessions {
        session.close().await.unwrap();
    }
    assert_eq!(channels().await, 0);
}
