//! Clients, keys and what is seen of them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisCluster, RedisSentinels, Reply};
use lock_core::{
    Backend, Clock, Connector, EventSink, HoldState, HolderInfo, LockClient, LockKey, Session, SessionId,
    SessionOptions, StoreUrl, SystemClock,
};
use lock_redis::{RedisConnector, RedisOptions};

use crate::common::{SECOND, sleep, text};

pub(crate) async fn backend_with(url: &str, options: RedisOptions) -> Arc<dyn Backend> {
    let mut url = StoreUrl::parse(url).unwrap();
    RedisConnector::with_options(options).connect(&mut url).await.unwrap()
}

pub(crate) async fn backend_of(url: &str) -> Arc<dyn Backend> {
    backend_with(url, RedisOptions::new()).await
}

pub(crate) fn client_of(backend: Arc<dyn Backend>, ttl: Duration) -> LockClient {
    LockClient::builder(backend).ttl(ttl).build().unwrap()
}

pub(crate) fn cluster_url(cluster: &RedisCluster) -> String {
    format!("redis+cluster://{}", cluster.nodes()[0].address())
}

pub(crate) fn sentinel_url(sentinels: &RedisSentinels) -> String {
    format!("redis+sentinel://{}/{}", sentinels.addresses().join(","), sentinels.name())
}

/// The name of a key's record.
pub(crate) fn record(key: &str) -> String {
    let key = LockKey::new(key).unwrap().encoded();
    format!("fencepost:{{{:02x}}}:l:{key}", crc32fast::hash(key.as_bytes()) % 256)
}

/// A key that this node serves.
pub(crate) async fn key_at(cluster: &RedisCluster, node: &Redis) -> String {
    keys_at(cluster, node, 1).await.remove(0)
}

pub(crate) async fn keys_at(cluster: &RedisCluster, node: &Redis, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for n in 0.. {
        let key = format!("k{n}");
        if cluster.owner(&record(&key)).await.unwrap().port() == node.port() {
            found.push(key);
            if found.len() == count {
                break;
            }
        }
    }
    found
}

pub(crate) async fn open(
    backend: &Arc<dyn Backend>,
    key: &str,
    ttl: Duration,
    sink: EventSink,
) -> Arc<dyn Session> {
    let domain = backend.domain(&LockKey::new(key).unwrap());
    let options = SessionOptions::new(SessionId::random().unwrap(), domain, ttl, HolderInfo::new(1));
    backend.open(&options, sink).await.unwrap().session
}

pub(crate) fn deaf() -> EventSink {
    EventSink::new(|_| {})
}

pub(crate) async fn received(server: &Redis) -> u64 {
    let info = text(server, &["INFO", "stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

/// Polls once, and drops.
pub(crate) fn touch(future: impl Future) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

pub(crate) async fn is_held_for(guard: &lock_core::Guard, time: Duration) {
    let clock = SystemClock::new();
    let end = clock.boot() + time;
    while clock.boot() < end {
        assert!(!matches!(guard.state(), HoldState::Ended(_)), "{:?}", guard.state());
        sleep(SECOND / 20).await;
    }
}

/// Connections of clients to a server.
pub(crate) async fn clients_of(server: &Redis) -> usize {
    text(server, &["CLIENT", "LIST"]).await.lines().count()
}

/// Acquired and released, as soon as that is possible.
pub(crate) async fn passes(client: &LockClient, key: &str) {
    let clock = SystemClock::new();
    let end = clock.boot() + 40 * SECOND;
    loop {
        match client.mutex(key).unwrap().acquire().await {
            Ok(guard) => drop(guard.release().await),
            Err(error) if clock.boot() < end && error.is_retryable() => continue,
            Err(error) => unreachable!("{error}"),
        }
        return;
    }
}

/// A replica that has just come hears of nothing for up to a second.
pub(crate) async fn replica_has(servers: &RedisSentinels, keys: &str) {
    while servers.nodes()[1].command(["KEYS", keys]).await.unwrap() == Reply::List(vec![]) {
        sleep(SECOND / 50).await;
    }
}
