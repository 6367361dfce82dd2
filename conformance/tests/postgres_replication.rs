//! Replicas of a PostgreSQL server that the harness starts: they follow their primary, until they are held back, and one takes
//! its place.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, Postgres, PostgresReplication, PostgresReplicationSetup, PostgresSetup,
    Tls,
};
use lock_core::{Clock, ErrorKind, SystemClock};

#[tokio::test]
async fn a_replica_has_what_its_primary_had_and_gets() {
    let primary = Postgres::start().await.unwrap();
    primary.run("CREATE TABLE t (word text)").await.unwrap();
    add(&primary, "before").await;
    primary.account("client", "secret").await.unwrap();
    let replica = PostgresSetup::new().start_replica_of(&primary).await.unwrap();
    assert_eq!(words(&replica).await, "before");
    add(&primary, "after").await;
    replica.has_everything_of(&primary).await.unwrap();
    assert_eq!(words(&replica).await, "before\nafter");
    assert_eq!(replica.run("SELECT count(*) FROM pg_roles WHERE rolname = 'client'").await.unwrap(), "1");
    let refused = replica.run("INSERT INTO t VALUES ('here')").await.unwrap_err();
    assert!(refused.message().contains("read-only transaction"), "{refused}");
    assert!(primary.is_primary().await.unwrap() && !replica.is_primary().await.unwrap());
    // Replicas are no clients.
    assert_eq!(primary.disconnect().await.unwrap(), 0);
}

#[tokio::test]
async fn a_replica_that_is_held_back_has_what_was_before_and_nothing_of_what_comes() {
    let primary = Postgres::start().await.unwrap();
    let error = primary.hold_back_replicas().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidInput);
    primary.run("CREATE TABLE t (word text)").await.unwrap();
    let first = PostgresSetup::new().start_replica_of(&primary).await.unwrap();
    let second = PostgresSetup::new().start_replica_of(&primary).await.unwrap();
    add(&primary, "before").await;
    primary.hold_back_replicas().await.unwrap();
    add(&primary, "after").await;
    for replica in [&first, &second] {
        until("it has tried to come back", async || log(replica).contains("rejects replication")).await;
        until("it shows what it has", async || words(replica).await == "before").await;
    }
    primary.let_replicas_follow().await.unwrap();
    for replica in [&first, &second] {
        replica.has_everything_of(&primary).await.unwrap();
        assert_eq!(words(replica).await, "before\nafter");
    }
}

#[tokio::test]
async fn a_replica_that_was_killed_or_whose_primary_was_catches_up() {
    let primary = Postgres::start().await.unwrap();
    primary.run("CREATE TABLE t (word text)").await.unwrap();
    let replica = PostgresSetup::new().start_replica_of(&primary).await.unwrap();
    replica.kill().await.unwrap();
    add(&primary, "one").await;
    assert_eq!(replica.start_again_empty().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    replica.start_again().await.unwrap();
    replica.has_everything_of(&primary).await.unwrap();
    primary.kill().await.unwrap();
    assert_eq!(words(&replica).await, "one");
    primary.start_again().await.unwrap();
    add(&primary, "two").await;
    replica.has_everything_of(&primary).await.unwrap();
    assert_eq!(words(&replica).await, "one\ntwo");
}

#[tokio::test]
async fn a_replica_takes_over_from_a_primary_that_is_lost_and_again() {
    let all = PostgresReplication::start().await.unwrap();
    let first = all.primary();
    first.run("CREATE TABLE t (word text)").await.unwrap();
    add(&first, "one").await;
    all.is_in_step().await.unwrap();
    let second = all.replica();
    let lost = all.lose_primary(Loss::Killed).await.unwrap();
    assert_eq!(lost.port(), first.port());
    assert_eq!(all.primary().port(), second.port());
    add(&second, "two").await;
    all.is_in_step().await.unwrap();
    let third = all.replica();
    let lost = all.lose_primary(Loss::Stopped).await.unwrap();
    assert_eq!(lost.port(), second.port());
    assert_eq!(all.primary().port(), third.port());
    add(&third, "three").await;
    assert_eq!(words(&third).await, "one\ntwo\nthree");
    let ports: Vec<_> = all.nodes().iter().map(|node| node.port()).collect();
    assert_eq!(ports, [first.port(), second.port(), third.port(), all.replica().port()]);
    assert_eq!(all.addresses()[2], third.address());
    assert!(
        all.url().contains(&format!("@{},{},", first.address(), second.address())),
        "{}",
        all.addresses().join(",")
    );
    lost.kill().await.unwrap();
}

#[tokio::test]
async fn what_a_replica_has_not_got_is_lost_with_its_primary() {
    let all = PostgresReplication::start().await.unwrap();
    all.primary().run("CREATE TABLE t (word text)").await.unwrap();
    add(&all.primary(), "before").await;
    all.hold_back_replicas().await.unwrap();
    add(&all.primary(), "after").await;
    all.lose_primary(Loss::Killed).await.unwrap();
    assert_eq!(words(&all.primary()).await, "before");
}

#[tokio::test]
async fn a_primary_that_is_cut_off_goes_on_as_one() {
    let all = PostgresReplication::start().await.unwrap();
    all.primary().run("CREATE TABLE t (word text)").await.unwrap();
    add(&all.primary(), "before").await;
    all.is_in_step().await.unwrap();
    let old = all.isolate_primary().await.unwrap();
    let new = all.primary();
    assert_ne!(old.port(), new.port());
    assert!(old.is_primary().await.unwrap() && new.is_primary().await.unwrap());
    add(&old, "old").await;
    add(&new, "new").await;
    assert_eq!(words(&old).await, "before\nold");
    assert_eq!(words(&new).await, "before\nnew");
}

#[tokio::test]
async fn nodes_are_set_up_alike() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let setup = PostgresSetup::new().tls(&tls).setting("work_mem", "7MB");
    let all = PostgresReplicationSetup::new().nodes(setup).start().await.unwrap();
    all.lose_primary(Loss::Killed).await.unwrap();
    for node in [all.primary(), all.replica()] {
        assert_eq!(node.run("SHOW work_mem; SHOW ssl").await.unwrap(), "7MB\non");
    }
}

#[tokio::test]
async fn the_password_of_a_replica_is_not_shown() {
    let all = PostgresReplication::start().await.unwrap();
    assert!(!format!("{all:?}").contains(all.primary().password()));
    let config = std::fs::read_to_string(all.replica().directory().join("data/postgresql.conf")).unwrap();
    assert!(!config.contains(all.primary().password()));
}

async fn add(postgres: &Postgres, word: &str) {
    postgres.run(&format!("INSERT INTO t VALUES ('{word}')")).await.unwrap();
}

async fn words(postgres: &Postgres) -> String {
    postgres.run("SELECT word FROM t").await.unwrap()
}

fn log(postgres: &Postgres) -> String {
    std::fs::read_to_string(postgres.directory().join("server.log")).unwrap()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
