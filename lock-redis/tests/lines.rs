//! When a connection is kept, when it is given up, and what that costs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use lock_conformance::proxy::{Proxy, Way};
use lock_conformance::servers::{Redis, RedisSetup};
use lock_core::{Backend, Domain, Event, EventSink, HolderInfo, LockKey, Session, SessionId, SessionOptions};
use lock_redis::{RedisOptions, redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::{SECOND, backend, client, sleep, text};

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

fn with_options(url: &str, options: RedisOptions) -> Arc<dyn Backend> {
    lock_redis::backend(&redis::Client::open(url).unwrap(), options).unwrap()
}

/// A session, and how often it was told that something may have been missed.
async fn counting_gaps(backend: &Arc<dyn Backend>) -> (Arc<dyn Session>, Arc<AtomicUsize>) {
    let gaps = Arc::new(AtomicUsize::new(0));
    let count = gaps.clone();
    let sink = EventSink::new(move |event| {
        if matches!(event, Event::Gap) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let options =
        SessionOptions::new(SessionId::random().unwrap(), Domain(0), 60 * SECOND, HolderInfo::new(1));
    (backend.open(&options, sink).await.unwrap().session, gaps)
}

async fn connections(server: &Redis) -> u64 {
    let info = text(server, &["INFO", "stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

/// Polls once, and drops.
fn touch(future: impl Future) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// The same by a runtime that ends while a connection is being made.
#[test]
fn a_dialing_that_another_runtime_left_behind_does_not_break_the_client_for_ever() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let server = runtime();
    let (redis, proxy) = server.block_on(async {
        let redis = Redis::start().await.unwrap();
        let proxy = Proxy::to(redis.address()).await.unwrap();
        (redis, proxy)
    });
    proxy.delay(SECOND / 5);
    let backend = backend(&format!("redis://{}", proxy.address()));
    let name = key("k");
    first.block_on(async {
        tokio::select! {
            _ = backend.inspect(&name) => panic!("so soon"),
            () = sleep(SECOND / 10) => {}
        }
    });
    drop(first);
    let second = runtime();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let backend = backend.clone();
        let answer =
            second.block_on(second.spawn(async move { backend.inspect(&key("k")).await.map(|_| ()) }));
        answers.push(answer.map_err(|panic| panic.to_string()));
    }
    drop(redis);
    assert!(matches!(answers[2], Ok(Ok(()))), "{answers:?}");
}

/// Nobody looked at it meanwhile: the time that a connection may take is over before it was tried.
#[tokio::test]
async fn a_dialing_that_was_given_up_long_ago_is_not_the_next_callers_failure() {
    let server = Redis::start().await.unwrap();
    let backend = with_options(&server.url(), RedisOptions::new().connect_timeout(SECOND / 2));
    let name = key("k");
    touch(backend.inspect(&name));
    sleep(SECOND).await;
    let answer = backend.inspect(&name).await;
    assert!(answer.is_ok(), "the server was up all the time: {answer:?}");
}

/// It answered everything; only nobody was there any more to see some of it.
#[tokio::test]
async fn calls_that_are_given_up_at_once_do_not_cost_a_healthy_connection() {
    let server = Redis::start().await.unwrap();
    let client = client(&server.url(), 30 * SECOND);
    let _held = client.mutex("k").unwrap().acquire().await.unwrap();
    let before = connections(&server).await;
    for _ in 0..40 {
        tokio::select! {
            biased;
            _ = client.inspect("k") => panic!("so soon"),
            () = std::future::ready(()) => {}
        }
        sleep(SECOND / 20).await;
    }
    let made = connections(&server).await - before - 1;
    assert_eq!(made, 0, "new connections, to a server that answered each call at once");
}

/// Replies come in order: whoever was answered later proves that the earlier call was answered.
#[tokio::test]
async fn a_call_that_was_not_looked_at_for_long_does_not_cost_a_connection_that_answers_others() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (_session, gaps) = counting_gaps(&backend).await;
    let (one, other) = (key("k"), key("l"));
    let mut neglected = Box::pin(backend.inspect(&one));
    assert!(neglected.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    for _ in 0..20 {
        backend.inspect(&other).await.unwrap();
        sleep(SECOND / 100).await;
    }
    drop(neglected);
    backend.inspect(&other).await.unwrap();
    assert_eq!(gaps.load(Ordering::SeqCst), 0, "gaps of a line that answered all the time");
}

/// How patient it is was measured once, in a bad moment.
#[tokio::test]
async fn a_connection_that_was_made_in_a_slow_moment_is_given_up_in_time() {
    for slow in [Duration::ZERO, SECOND / 2] {
        let server = Redis::start().await.unwrap();
        let middle = Proxy::to(server.address()).await.unwrap();
        let front = Proxy::to(middle.address()).await.unwrap();
        middle.delay(slow);
        let client = client(&format!("redis://{}", front.address()), 3 * SECOND);
        let backend_is_up = client.open().await;
        assert!(backend_is_up.is_ok());
        middle.delay(Duration::ZERO);
        let guard = client.mutex("k").unwrap().acquire().await.unwrap();
        sleep(2 * SECOND).await;
        assert!(guard.state().is_held());
        // This connection is a black hole from now on, and every other one works.
        front.lead_to(server.address()).unwrap();
        middle.block(Way::Both);
        sleep(5 * SECOND).await;
        assert!(guard.state().is_held(), "dialed with a delay of {slow:?}: {:?}", guard.state());
    }
}

/// Nothing was sent on a connection that did not come about, and nobody listened on it: nobody can have missed anything.
#[tokio::test]
async fn connections_that_do_not_come_about_are_no_gaps() {
    let server = Redis::start().await.unwrap();
    let proxy = Proxy::to(server.address()).await.unwrap();
    let backend = backend(&format!("redis://{}", proxy.address()));
    let (_session, gaps) = counting_gaps(&backend).await;
    // As a server that has no room for another client.
    let full = TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.lead_to(full.local_addr().unwrap().to_string()).unwrap();
    let mut refusing = JoinSet::new();
    refusing.spawn(async move {
        while let Ok((mut client, _)) = full.accept().await {
            let _ = client.read(&mut [0; 4096]).await;
            let _ = client.write_all(b"-ERR max number of clients reached\r\n").await;
        }
    });
    proxy.reset_all();
    for _ in 0..20 {
        let error = backend.inspect(&key("k")).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        sleep(SECOND / 100).await;
    }
    assert_eq!(gaps.load(Ordering::SeqCst), 1, "one line was lost");
}

/// It is over as soon as somebody else leaves.
#[tokio::test]
async fn a_server_without_room_for_another_connection_is_not_an_old_server() {
    let server = RedisSetup::new().arguments(["--maxclients", "4"]).start().await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..4 {
        let mut one = TcpStream::connect(server.address()).await.unwrap();
        one.write_all(b"PING\r\n").await.unwrap();
        let _ = one.read(&mut [0; 64]).await;
        taken.push(one);
    }
    // A few milliseconds away, as servers are: what it says arrives before the reset.
    let proxy = Proxy::to(server.address()).await.unwrap();
    proxy.delay(SECOND / 200);
    let backend = backend(&format!("redis://{}", proxy.address()));
    let mut wrong = Vec::new();
    for _ in 0..50 {
        let error = backend.inspect(&key("k")).await.unwrap_err();
        if !error.is_retryable() {
            wrong.push(error.to_string());
        }
    }
    assert!(wrong.is_empty(), "{} of 50: {}", wrong.len(), wrong[0]);
}
