//! Behind PgBouncer: where each transaction has another connection of the server there are no locks, and it is said why; where each
//! client keeps its own there are.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::servers::{PgBouncer, PgBouncerSetup, PoolMode, Postgres};
use lock_conformance::tls::working::is_renewed;
use lock_core::{Clock, Connector, End, Error, ErrorKind, LockClient, Result, StoreUrl, SystemClock};
use lock_postgres::sqlx::{Connection, PgConnection};
use lock_postgres::{PostgresConnector, PostgresOptions};
use tokio::task::JoinSet;

use crate::fixtures::clients::{SECOND, acquired, answer, client, connect, until, waiting, within};

const TTL: Duration = SECOND;

/// A server that has the schema, and a pooler before it.
async fn pooled(mode: PoolMode, size: u32) -> (Postgres, PgBouncer) {
    let server = Postgres::start().await.unwrap();
    connect(&server.url()).await.unwrap();
    let setup = PgBouncerSetup::new().pool_mode(mode).pool_size(size);
    let pooler = setup.start_before(&server).await.unwrap();
    (server, pooler)
}

/// What comes of a client that connects at once, and of one that does by its first call.
async fn two_attempts(url: String) -> [Result<()>; 2] {
    let connector = PostgresConnector::with_options(PostgresOptions::new().connect_timeout(2 * SECOND));
    let eager = connector.connect(&mut StoreUrl::parse(&url).unwrap()).await.map(drop);
    let lazy = connector.open(&mut StoreUrl::parse(&url).unwrap()).unwrap();
    let client = LockClient::builder(lazy).ttl(TTL).build().unwrap();
    let lazy = client.mutex("k").unwrap().acquire().await.map(drop);
    [eager, lazy]
}

fn explains(error: &Error) -> bool {
    *error.kind() == ErrorKind::Misconfigured
        && !error.is_retryable()
        && ["there is a pooler in between", "pool_mode session"]
            .iter()
            .all(|words| error.message().contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_each_transaction_has_another_connection_every_client_is_told_why_there_are_no_locks() {
    for mode in [PoolMode::Transaction, PoolMode::Statement] {
        for size in [1, 20] {
            let (server, pooler) = pooled(mode, size).await;
            for clients in [1, 2, 16] {
                let mut attempts: JoinSet<_> = (0..clients).map(|_| two_attempts(pooler.url())).collect();
                while let Some(attempt) =
                    within(20 * SECOND, "an answer to everybody", attempts.join_next()).await
                {
                    for answer in attempt.unwrap() {
                        let case = format!("{mode:?}, {size} connections, {clients} clients");
                        assert!(answer.as_ref().is_err_and(explains), "{case}: {answer:?}");
                    }
                }
            }
            let held = "SELECT count(*) FROM fencepost.lock WHERE holders <> '{}' OR waiting > 0";
            assert_eq!(server.run(held).await.unwrap(), "0");
        }
    }
}

/// It makes the schema before it finds out: nothing of that is half done.
#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_finds_no_schema() {
    let server = Postgres::start().await.unwrap();
    let pooler = PgBouncerSetup::new().start_before(&server).await.unwrap();
    for answer in within(20 * SECOND, "an answer", two_attempts(pooler.url())).await {
        assert!(answer.as_ref().is_err_and(explains), "{answer:?}");
    }
    client(&server.url(), TTL).mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// Somebody else has the only connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_free_connection_keeps_nobody_for_longer() {
    let (_server, pooler) = pooled(PoolMode::Transaction, 1).await;
    let mut other = PgConnection::connect(&pooler.url()).await.unwrap();
    let transaction = other.begin().await.unwrap();
    let connector = PostgresConnector::with_options(PostgresOptions::new().connect_timeout(SECOND));
    let mut url = StoreUrl::parse(&pooler.url()).unwrap();
    let error = within(3 * SECOND, "an answer", connector.connect(&mut url)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{error}");
    drop(transaction);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_each_client_keeps_its_connection_everything_works() {
    let (_server, pooler) = pooled(PoolMode::Session, 20).await;
    let [one, other, third] = [0; 3].map(|_| client(&pooler.url(), TTL));
    let held = one.mutex("k").unwrap().acquire().await.unwrap();
    let (next, last) = (waiting(&other, "k").await, waiting(&third, "k").await);
    is_renewed(&held, 2 * TTL).await.unwrap();
    let clock = SystemClock::new();
    let released = clock.boot();
    assert_eq!(held.release().await.unwrap(), End::Released);
    let next = answer(next).await.unwrap();
    // By the news of it, and not by the next renewal.
    assert!(clock.boot().since(released) < TTL / 4, "{:?}", clock.boot().since(released));
    is_renewed(&next, 2 * TTL).await.unwrap();
    assert_eq!(next.release().await.unwrap(), End::Released);
    assert_eq!(answer(last).await.unwrap().release().await.unwrap(), End::Released);
}

/// Two for each process, as the explanation says: the listener of the second gets none.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_pool_is_too_small_for_two_each_whoever_comes_late_is_told_and_served_later() {
    let (_server, pooler) = pooled(PoolMode::Session, 3).await;
    let first = connect(&pooler.url()).await.unwrap();
    let connector = PostgresConnector::with_options(PostgresOptions::new().connect_timeout(SECOND));
    let late = connector.open(&mut StoreUrl::parse(&pooler.url()).unwrap()).unwrap();
    let late = LockClient::builder(late).ttl(TTL).build().unwrap();
    let lock = late.mutex("k").unwrap();
    let error = within(5 * SECOND, "an answer", lock.try_acquire()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{error}");
    drop(first);
    acquired(&late, "k").await.release().await.unwrap();
}

/// A hold goes on, and a waiter is served, with connections that the pooler makes anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_started_again_behind_a_pooler_is_used_again() {
    let (server, pooler) = pooled(PoolMode::Session, 20).await;
    let [one, other] = [0; 2].map(|_| client(&pooler.url(), 20 * TTL));
    let held = one.mutex("k").unwrap().acquire().await.unwrap();
    let next = waiting(&other, "k").await;
    server.kill().await.unwrap();
    // What is asked meanwhile says that it passes.
    for _ in 0..20 {
        if let Err(error) = one.mutex("other").unwrap().try_acquire().await {
            assert!(error.is_retryable(), "{error:?}");
        }
    }
    server.start_again().await.unwrap();
    acquired(&one, "third").await.release().await.unwrap();
    assert!(held.state().is_held(), "{:?}", held.state());
    assert_eq!(held.release().await.unwrap(), End::Released);
    assert_eq!(answer(next).await.unwrap().release().await.unwrap(), End::Released);
}

/// Writes another mode into the pooler's configuration.
fn becomes(pooler: &PgBouncer, mode: &str) {
    let file = pooler.directory().join("pgbouncer.ini");
    let lines = std::fs::read_to_string(&file).unwrap();
    assert!(lines.contains("pool_mode = session"), "{lines}");
    std::fs::write(&file, lines.replace("pool_mode = session", &format!("pool_mode = {mode}"))).unwrap();
}

/// Clients that work under one lock, one at a time, until each of them has been told.
async fn work_until_told(clients: &[LockClient]) {
    let inside = Arc::new(AtomicUsize::new(0));
    let mut working = JoinSet::new();
    for client in clients {
        let (lock, inside) = (client.mutex("k").unwrap(), inside.clone());
        working.spawn(async move {
            loop {
                match lock.acquire().await {
                    Ok(guard) => {
                        let before = inside.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        assert_eq!(before, 0, "two were inside");
                        let _ = guard.release().await;
                    }
                    Err(error) if explains(&error) => return,
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            }
        });
    }
    while let Some(told) = within(30 * SECOND, "the explanation", working.join_next()).await {
        told.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_changes_its_mode_under_clients_that_run_is_told_by_them() {
    for mode in ["transaction", "statement"] {
        let (_server, pooler) = pooled(PoolMode::Session, 20).await;
        let clients = [0; 4].map(|_| client(&pooler.url(), TTL));
        for client in &clients {
            client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
        }
        becomes(&pooler, mode);
        pooler.command("RELOAD").await.unwrap();
        work_until_told(&clients).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_is_started_again_in_another_mode() {
    for clients in [1, 4] {
        let (_server, pooler) = pooled(PoolMode::Session, 20).await;
        let clients: Vec<_> = (0..clients).map(|_| client(&pooler.url(), TTL)).collect();
        for client in &clients {
            client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
        }
        pooler.kill().await.unwrap();
        becomes(&pooler, "transaction");
        pooler.start_again().await.unwrap();
        work_until_told(&clients).await;
    }
}

/// It keeps its line to the server, and with it the lock, or is told; whatever it is, nobody else has the lock meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_a_pooler_that_changes_its_mode_or_ends_and_nobody_else_has_it_before() {
    let (server, pooler) = pooled(PoolMode::Session, 20).await;
    let (holder, direct) = (client(&pooler.url(), TTL), client(&server.url(), TTL));
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let next = waiting(&direct, "k").await;
    becomes(&pooler, "transaction");
    pooler.command("RELOAD").await.unwrap();
    let crowd = client(&pooler.url(), TTL);
    until("a newcomer is told", async || {
        crowd.mutex("other").unwrap().try_acquire().await.is_err_and(|error| explains(&error))
    })
    .await;
    let token = held.token();
    let mut granted = std::pin::pin!(answer(next));
    let next = tokio::select! {
        biased;
        next = &mut granted => {
            assert!(!held.state().is_held(), "granted to somebody else: {:?}", held.state());
            next
        }
        () = SystemClock::new().sleep(4 * TTL) => {
            assert!(held.state().is_held(), "neither held nor granted to somebody else: {:?}", held.state());
            // Where that is not heard, the lease ends.
            let released = held.release().await;
            assert!(released.as_ref().map_or_else(explains, |end| *end == End::Released), "{released:?}");
            granted.await
        }
    };
    let next = next.unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
}
