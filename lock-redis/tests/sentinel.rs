//! Behind sentinels: whoever they call the primary is the one, also when nothing breaks; and without them locks are kept.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSentinels, RedisSentinelsSetup, RedisSetup, Reply};
use lock_core::{
    Backend, Clock, Connector, End, ErrorKind, HoldState, LockClient, Result, Secret, StoreUrl, SystemClock,
};
use lock_redis::{Credentials, RedisConnector, RedisOptions};

use crate::common::{SECOND, sleep, text};

const PASSWORD: &str = "secret";

/// With passwords: without, nobody can be cut off from a node.
async fn servers() -> RedisSentinels {
    let setup = RedisSentinelsSetup::new().nodes(RedisSetup::new().password(PASSWORD));
    setup.start().await.unwrap()
}

fn url(servers: &RedisSentinels) -> String {
    format!("redis+sentinel://:{PASSWORD}@{}/{}", servers.addresses().join(","), servers.name())
}

async fn connect(url: &str, options: RedisOptions) -> Result<Arc<dyn Backend>> {
    RedisConnector::with_options(options).connect(&mut StoreUrl::parse(url).unwrap()).await
}

async fn client(servers: &RedisSentinels, ttl: Duration) -> LockClient {
    let backend = connect(&url(servers), RedisOptions::new()).await.unwrap();
    LockClient::builder(backend).ttl(ttl).build().unwrap()
}

/// How many of them are held there.
async fn held_at(node: &Redis, keys: &str) -> usize {
    match node.command(["KEYS", &format!("fencepost:{{00}}:l:{keys}")]).await.unwrap() {
        Reply::List(records) => records.len(),
        _ => 0,
    }
}

/// The connection to the old primary is as good as before, and so is that primary: but the sentinels say that it is none.
#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_another_while_nothing_breaks() {
    let servers = servers().await;
    let client = client(&servers, SECOND).await;
    client.mutex("before").unwrap().acquire().await.unwrap().release().await.unwrap();
    let old = servers.isolate_primary().await.unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + 3 * SECOND;
    while held_at(&servers.primary().await.unwrap(), "after").await == 0 {
        assert!(clock.boot() < end, "it stays with the old primary");
        if let Ok(Ok(guard)) = client.mutex("after").unwrap().try_acquire().await {
            guard.release().await.unwrap();
        }
    }
    assert!(text(&old, &["ROLE"]).await.contains("master"), "it is one as far as it knows");
    let guard = client.mutex("later").unwrap().acquire().await.unwrap();
    assert_eq!(held_at(&old, "later").await, 0);
    assert_eq!(held_at(&servers.primary().await.unwrap(), "later").await, 1);
    guard.release().await.unwrap();
}

/// An operator's failover, while the replica has heard of all: nothing is lost, and so nobody loses anything.
#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_failover_keeps_what_is_held() {
    let servers = servers().await;
    let (holder, other) = (client(&servers, 5 * SECOND).await, client(&servers, 5 * SECOND).await);
    let guard = holder.mutex("k").unwrap().acquire().await.unwrap();
    let (token, old) = (guard.token(), servers.primary().await.unwrap().address());
    while held_at(&servers.nodes()[1], "k").await == 0 {
        sleep(SECOND / 50).await;
    }
    let asked = servers.sentinels()[0].command(["SENTINEL", "FAILOVER", servers.name()]).await.unwrap();
    assert_eq!(asked, Reply::Text("OK".into()));
    let moved = async || match servers.primary().await {
        Ok(primary) => primary.address() != old && text(&primary, &["ROLE"]).await.contains("master"),
        Err(_) => false,
    };
    while !moved().await {
        sleep(SECOND / 50).await;
    }
    for _ in 0..2 {
        let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
            unreachable!("{:?}", guard.state());
        };
        guard.extended(until).await;
    }
    assert!(guard.state().is_held(), "{:?}", guard.state());
    assert_eq!(held_at(&servers.primary().await.unwrap(), "k").await, 1);
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    assert_eq!(guard.release().await.unwrap(), End::Released);
    let next = other.mutex("k").unwrap().acquire().await.unwrap();
    assert!(next.token() > token);
}

/// What has been the primary takes no writes any more, and the sentinels have not noticed yet: it passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_read_only_passes() {
    let servers = servers().await;
    let client = client(&servers, 10 * SECOND).await;
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    // So that they do not see what is done to it: this is about the client alone.
    for sentinel in servers.sentinels() {
        sentinel.stop().unwrap();
    }
    let primary = servers.nodes()[0].clone();
    text(&primary, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = client.mutex("k").unwrap().try_acquire().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    text(&primary, &["REPLICAOF", "NO", "ONE"]).await;
    for sentinel in servers.sentinels() {
        sentinel.go_on().unwrap();
    }
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// That all sentinels are away is no reason to lose a lock: the primary that they named goes on, also over a new connection.
#[tokio::test(flavor = "multi_thread")]
async fn without_sentinels_what_is_held_is_kept() {
    let servers = servers().await;
    let client = client(&servers, 2 * SECOND).await;
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    for (number, sentinel) in servers.sentinels().iter().enumerate() {
        if number == 0 { sentinel.stop().unwrap() } else { sentinel.kill().await.unwrap() }
    }
    let primary = servers.nodes()[0].clone();
    for round in 0..3 {
        if round > 0 {
            let killed = primary.command(["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
            assert!(matches!(killed, Reply::Number(1..)), "{killed:?}");
        }
        let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
            unreachable!("{:?}", guard.state());
        };
        let state = guard.extended(until).await;
        assert!(state.is_held(), "{state:?}");
        client.mutex("other").unwrap().acquire().await.unwrap().release().await.unwrap();
    }
    // A client that is new has nobody to ask.
    let error = connect(&url(&servers), RedisOptions::new().connect_timeout(SECOND)).await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error:?}");
    assert_eq!(guard.release().await.unwrap(), End::Released);
}

/// One that hangs costs a moment, and one that is dead nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_hangs_keeps_nobody_for_long() {
    let servers = servers().await;
    servers.sentinels()[0].stop().unwrap();
    servers.sentinels()[1].kill().await.unwrap();
    let clock = SystemClock::new();
    let began = clock.boot();
    let client = client(&servers, SECOND).await;
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    let took = clock.boot().since(began);
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_sentinels_is_said() {
    let setup = RedisSentinelsSetup::new().nodes(RedisSetup::new().password(PASSWORD)).password("theirs");
    let servers = setup.start().await.unwrap();
    let theirs = |password: &str| {
        RedisOptions::new().sentinel_credentials(Credentials::new(None, Secret::from(password)))
    };
    connect(&url(&servers), theirs("theirs")).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "theirs\n").unwrap();
    let with_file = format!("{}?sentinel_password_file={}", url(&servers), file.path().display());
    connect(&with_file, RedisOptions::new()).await.unwrap();
    for (options, word) in [(RedisOptions::new(), "NOAUTH"), (theirs("not-this"), "WRONGPASS")] {
        let error = connect(&url(&servers), options).await.unwrap_err();
        assert!(*error.kind() == ErrorKind::Denied && !error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains(word) && !error.to_string().contains("not-this"), "{error}");
    }
    let unknown = url(&servers).replace("/locks", "/unknown");
    let error = connect(&unknown, theirs("theirs")).await.unwrap_err();
    assert!(*error.kind() == ErrorKind::Misconfigured && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("\"unknown\""), "{error}");
    // A server that is no sentinel.
    let server = Redis::start().await.unwrap();
    let error = connect(&format!("redis+sentinel://{}/locks", server.address()), RedisOptions::new()).await;
    let error = error.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}
