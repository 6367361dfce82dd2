//! Settings under which a lock can be lost: told, and refused where they are not wanted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lock_conformance::servers::{Postgres, PostgresReplication, PostgresSetup};
use lock_core::{Connector, Finding, Severity, StoreUrl};
use lock_postgres::PostgresConnector;

async fn findings(url: &str) -> Vec<Finding> {
    let backend = PostgresConnector::new().connect(&mut StoreUrl::parse(url).unwrap()).await.unwrap();
    backend.probe().await.unwrap()
}

async fn settings(url: &str) -> Vec<String> {
    let findings = findings(url).await;
    assert!(findings.iter().all(|finding| finding.severity == Severity::Unsafe), "{findings:?}");
    findings.into_iter().map(|finding| finding.setting).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_a_server_that_keeps_what_it_acknowledges() {
    let server = PostgresSetup::new().durable().start().await.unwrap();
    assert_eq!(settings(&server.url()).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_can_lose_is_told() {
    // As the harness starts it: without waiting for the disk.
    let server = Postgres::start().await.unwrap();
    assert_eq!(settings(&server.url()).await, ["fsync", "full_page_writes"]);
    let server = PostgresSetup::new().durable().setting("full_page_writes", "off").start().await.unwrap();
    assert_eq!(settings(&server.url()).await, ["full_page_writes"]);
}

/// Of the role that asks, whatever the server's own is.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_waits_for_no_disk_is_told() {
    let server = PostgresSetup::new().durable().start().await.unwrap();
    assert_eq!(settings(&server.url()).await, Vec::<String>::new());
    server.account("hasty", "secret").await.unwrap();
    server
        .run(
            "ALTER ROLE hasty SET synchronous_commit = off; GRANT USAGE ON SCHEMA fencepost TO hasty; \
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fencepost TO hasty",
        )
        .await
        .unwrap();
    assert_eq!(settings(&server.url_of("hasty", "secret")).await, ["synchronous_commit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_may_lag_is_told_and_one_that_may_not_is_not() {
    let servers = PostgresReplication::start().await.unwrap();
    let url = servers.primary().url();
    assert!(settings(&url).await.iter().any(|setting| setting == "asynchronous standbys"));
    let primary = servers.primary();
    primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    primary.run("SELECT pg_reload_conf()").await.unwrap();
    while primary
        .run("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
        .await
        .unwrap()
        .trim()
        == "0"
    {
        tokio::task::yield_now().await;
    }
    let settings = settings(&url).await;
    assert!(!settings.iter().any(|setting| setting == "asynchronous standbys"), "{settings:?}");
}

/// What a role without special rights may not see is not taken for good.
#[tokio::test(flavor = "multi_thread")]
async fn standbys_that_cannot_be_seen_are_unknown() {
    let servers = PostgresReplication::start().await.unwrap();
    let primary = servers.primary();
    primary.account("owner", "secret").await.unwrap();
    primary.run("GRANT CREATE ON DATABASE postgres TO owner").await.unwrap();
    let findings = findings(&primary.url_of("owner", "secret")).await;
    let unknown: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Unknown).collect();
    assert!(matches!(unknown[..], [finding] if finding.setting == "asynchronous standbys"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_crash_empties_are_told() {
    let server = PostgresSetup::new().durable().start().await.unwrap();
    assert_eq!(settings(&server.url()).await, Vec::<String>::new());
    server.run("ALTER TABLE fencepost.lock SET UNLOGGED").await.unwrap();
    assert_eq!(settings(&server.url()).await, ["persistence"]);
}
