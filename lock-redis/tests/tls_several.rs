//! Through TLS to several servers: behind sentinels and in a cluster, where servers say at which address the next one is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, RedisCluster, RedisClusterSetup, RedisSentinels, RedisSentinelsSetup,
    RedisSetup, Tls,
};
use lock_core::{Backend, Clock, Connector, ErrorKind, HoldState, LockClient, Result, StoreUrl, SystemClock};
use lock_redis::{RedisConnector, RedisOptions};

use crate::common::{SECOND, sleep};

/// Each of three nodes has one of them.
const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Everybody asks everybody for a certificate.
fn tls(authority: &Authority) -> Tls {
    Tls::new(authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required)
}

/// Servers that are certified for `localhost`, and call each other `127.0.0.1`.
fn tls_by_name(authority: &Authority) -> Tls {
    Tls::new(authority, authority.server_named(["localhost"]).unwrap())
}

async fn sentinels(tls: &Tls) -> RedisSentinels {
    RedisSentinelsSetup::new().nodes(RedisSetup::new().tls(tls)).start().await.unwrap()
}

/// Three nodes, with these arguments.
async fn cluster(tls: &Tls, arguments: &[&str]) -> RedisCluster {
    let node = RedisSetup::new().tls(tls).arguments(arguments.iter().copied());
    RedisClusterSetup::new().nodes(node).start().await.unwrap()
}

fn options(authority: &Authority) -> RedisOptions {
    let client = authority.client("locks").unwrap();
    // Its files go with the authority.
    RedisOptions::new().ca_file(authority.certificate()).certificate(client.certificate(), client.key())
}

async fn connect(url: &str, options: RedisOptions) -> Result<Arc<dyn Backend>> {
    RedisConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
}

async fn client(url: &str, options: RedisOptions) -> LockClient {
    LockClient::builder(connect(url, options).await.unwrap()).ttl(SECOND).build().unwrap()
}

/// Each of these keys is taken, renewed and given back.
async fn holds(client: &LockClient, keys: &[&str]) {
    let mut guards = Vec::new();
    for key in keys {
        guards.push(client.mutex(*key).unwrap().acquire().await.unwrap());
    }
    let clock = SystemClock::new();
    let end = clock.boot() + SECOND * 2;
    while clock.boot() < end {
        assert!(guards.iter().all(|guard| !matches!(guard.state(), HoldState::Ended(_))));
        sleep(SECOND / 20).await;
    }
    for guard in guards {
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_and_after_a_failover() {
    let authority = Authority::new().unwrap();
    let servers = sentinels(&tls(&authority)).await;
    let url = format!("rediss+sentinel://{}/{}", servers.addresses().join(","), servers.name());
    let client = client(&url, options(&authority)).await;
    holds(&client, &["k"]).await;
    let held = client.mutex("lost").unwrap().acquire().await.unwrap();
    servers.lose_primary(Loss::Killed).await.unwrap();
    held.ending().await;
    holds(&client, &["k", "lost"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster() {
    let authority = Authority::new().unwrap();
    let servers = cluster(&tls(&authority), &[]).await;
    let url = format!("rediss+cluster://{}", servers.nodes()[0].address());
    holds(&client(&url, options(&authority)).await, &KEYS).await;
    for node in servers.nodes() {
        let calls = common::calls(&node, "evalsha").await;
        assert!(calls > 0, "{} was asked for nothing", node.address());
    }
}

/// What sentinels name is an address, unless they are told to give names: the certificate has to be for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_sentinels_name_is_what_the_certificate_has_to_be_for() {
    let authority = Authority::new().unwrap();
    let servers = sentinels(&tls_by_name(&authority)).await;
    let hosts: Vec<_> =
        servers.sentinels().iter().map(|sentinel| format!("localhost:{}", sentinel.port())).collect();
    let url = format!("rediss+sentinel://{}/{}", hosts.join(","), servers.name());
    let error = connect(&url, options(&authority)).await.unwrap_err();
    let primary = servers.primary().await.unwrap();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    assert_eq!(error.endpoint(), Some(primary.url().as_str()), "{error}");
    assert!(error.message().contains("for another host"), "{error}");

    let by_name = options(&authority).address_map(|_, port| ("localhost".into(), port));
    holds(&client(&url, by_name).await, &["k"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_among_the_sentinels_is_told() {
    let authority = Authority::new().unwrap();
    let servers = sentinels(&tls(&Authority::new().unwrap())).await;
    let url = format!("rediss+sentinel://{}/{}", servers.addresses().join(","), servers.name());
    let error = connect(&url, options(&authority)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    for address in servers.addresses() {
        assert!(error.message().contains(&address), "{error}");
    }
}

/// Nodes call each other by address, unless they are told to give names.
#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_name_is_what_the_certificate_has_to_be_for() {
    let authority = Authority::new().unwrap();
    let tls = tls_by_name(&authority);
    let by_address = cluster(&tls, &[]).await;
    let url = format!("rediss+cluster://localhost:{}", by_address.nodes()[0].port());
    let client_by_address = client(&url, options(&authority)).await;
    let mut refused = 0;
    for key in KEYS {
        // The node that the URL names may have it.
        let Err(error) = client_by_address.mutex(key).unwrap().acquire().await else { continue };
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
        assert!(error.message().contains("for another host"), "{error}");
        assert!(by_address.nodes().iter().any(|node| error.endpoint() == Some(&node.url())), "{error}");
        refused += 1;
    }
    assert!(refused > 0);
    let by_name = options(&authority).address_map(|_, port| ("localhost".into(), port));
    holds(&client(&url, by_name).await, &KEYS).await;

    let names = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let named = cluster(&tls, &names).await;
    let url = format!("rediss+cluster://localhost:{}", named.nodes()[0].port());
    holds(&client(&url, options(&authority)).await, &KEYS).await;
}
