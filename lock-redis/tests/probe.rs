//! What the probe finds, on servers that are set up well, badly, and so that they do not say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_core::{Connector, Finding, Severity, StoreUrl};
use lock_redis::RedisConnector;

async fn findings(url: &str) -> Vec<Finding> {
    RedisConnector::new().connect(&mut StoreUrl::parse(url).unwrap()).await.unwrap().probe().await.unwrap()
}

fn names(findings: &[Finding], severity: Severity) -> Vec<&str> {
    findings.iter().filter(|it| it.severity == severity).map(|it| it.setting.as_str()).collect()
}

#[tokio::test]
async fn a_server_that_keeps_what_it_acknowledged_has_no_findings() {
    let server = RedisSetup::new().persistent().start().await.unwrap();
    assert_eq!(findings(&server.url()).await, []);
}

#[tokio::test]
async fn what_loses_locks_is_unsafe() {
    let server = RedisSetup::new().arguments(["--maxmemory-policy", "allkeys-lru"]).start().await.unwrap();
    let found = findings(&server.url()).await;
    assert_eq!(names(&found, Severity::Unsafe), ["maxmemory-policy", "appendonly"]);
    assert!(found[0].message.contains("set it to noeviction"), "{}", found[0]);

    let server =
        RedisSetup::new().persistent().arguments(["--appendfsync", "everysec"]).start().await.unwrap();
    assert_eq!(names(&findings(&server.url()).await, Severity::Unsafe), ["appendfsync"]);
}

#[tokio::test]
async fn a_replica_and_a_primary_that_has_one_say_so() {
    let primary = RedisSetup::new().persistent().start().await.unwrap();
    let of = format!("127.0.0.1 {}", primary.port());
    let replica = RedisSetup::new().persistent().arguments(["--replicaof", &of]).start().await.unwrap();
    let clock = lock_core::SystemClock::new();
    loop {
        let Reply::Text(info) = primary.command(["INFO", "replication"]).await.unwrap() else { panic!() };
        if info.contains("connected_slaves:1") {
            break;
        }
        lock_core::Clock::sleep(&clock, std::time::Duration::from_millis(10)).await;
    }
    let found = findings(&primary.url()).await;
    assert_eq!(names(&found, Severity::Unsafe), ["replication"]);
    assert!(found[0].message.contains("min-replicas-to-write is 0"), "{}", found[0]);
    let found = findings(&replica.url()).await;
    assert_eq!(names(&found, Severity::Unsafe), ["role"]);
}

/// As managed servers do it: no CONFIG, no INFO.
#[tokio::test]
async fn what_may_not_be_read_is_unknown_and_says_what_to_assert() {
    let server = Redis::start().await.unwrap();
    let rights = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config", "-info"];
    assert_eq!(server.command(rights).await.unwrap(), Reply::Text("OK".into()));
    let found = findings(&format!("redis://app:secret@{}", server.address())).await;
    assert_eq!(names(&found, Severity::Unsafe), [""; 0]);
    assert_eq!(names(&found, Severity::Unknown), ["maxmemory-policy", "appendonly", "replication"]);
    for finding in found {
        assert!(finding.message.contains("has to assert that"), "{finding}");
    }
}

/// While the file is rewritten, "always" is not always.
#[tokio::test]
async fn the_probe_knows_that_a_rewrite_may_suspend_the_synchronizing() {
    let server = RedisSetup::new()
        .persistent()
        .arguments(["--no-appendfsync-on-rewrite", "yes"])
        .start()
        .await
        .unwrap();
    assert_eq!(names(&findings(&server.url()).await, Severity::Unsafe), ["no-appendfsync-on-rewrite"]);
}
