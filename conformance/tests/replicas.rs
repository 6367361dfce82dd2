//! Replicas of a Redis that the harness starts: they follow their primary, until they are held back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_core::{Clock, ErrorKind, SystemClock};

#[tokio::test]
async fn a_replica_has_what_its_primary_had_and_gets() {
    let primary = RedisSetup::new().replicated().start().await.unwrap();
    set(&primary, "before").await;
    let replica = RedisSetup::new().start_replica_of(&primary).await.unwrap();
    assert_eq!(value(&replica).await, text("before"));
    set(&primary, "after").await;
    until("the replica has it", async || value(&replica).await == text("after")).await;
    let refused = replica.command(["SET", "k", "v"]).await.unwrap();
    assert!(matches!(&refused, Reply::Error(it) if it.starts_with("READONLY")), "{refused:?}");
}

#[tokio::test]
async fn a_replica_that_is_held_back_has_what_was_before_and_nothing_of_what_comes() {
    for password in [None, Some("s3cret \"with\" \\ and \u{00e9}")] {
        let mut setup = RedisSetup::new().replicated();
        if let Some(password) = password {
            setup = setup.password(password);
        }
        let primary = setup.start().await.unwrap();
        let first = RedisSetup::new().start_replica_of(&primary).await.unwrap();
        let second = RedisSetup::new().start_replica_of(&primary).await.unwrap();
        set(&primary, "before").await;
        primary.hold_back_replicas().await.unwrap();
        set(&primary, "after").await;
        // Each tries to come back every second.
        for replica in [&first, &second] {
            until("it has tried to come back", async || log(replica).contains("Unable to AUTH")).await;
            assert_eq!(value(replica).await, text("before"));
        }
        primary.let_replicas_follow().await.unwrap();
        for replica in [&first, &second] {
            until("it is back", async || value(replica).await == text("after")).await;
        }
    }
}

#[tokio::test]
async fn a_replica_is_let_in_by_a_primary_that_asks_for_a_password() {
    let primary = RedisSetup::new().password("secret").start().await.unwrap();
    let replica = RedisSetup::new().start_replica_of(&primary).await.unwrap();
    set(&primary, "v").await;
    until("the replica has it", async || value(&replica).await == text("v")).await;
    let error = primary.hold_back_replicas().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidInput);
}

#[tokio::test]
async fn the_account_of_replicas_opens_nothing_else_and_is_not_shown() {
    let primary = RedisSetup::new().replicated().start().await.unwrap();
    let config = std::fs::read_to_string(primary.directory().join("redis.conf")).unwrap();
    let secret = config.lines().find_map(|line| line.strip_prefix("masterauth ")).unwrap();
    assert!(!format!("{primary:?}").contains(secret));
    let dry = ["ACL", "DRYRUN", "replica", "GET", "k"];
    let refused = primary.command(dry).await.unwrap();
    assert_ne!(refused, text("OK"));
}

async fn set(redis: &Redis, value: &str) {
    assert_eq!(redis.command(["SET", "k", value]).await.unwrap(), text("OK"));
}

async fn value(redis: &Redis) -> Reply {
    redis.command(["GET", "k"]).await.unwrap()
}

fn log(redis: &Redis) -> String {
    std::fs::read_to_string(redis.directory().join("server.log")).unwrap()
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
