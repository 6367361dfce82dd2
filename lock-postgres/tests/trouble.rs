//! Trouble that a server or its administrator makes: connections that are ended, limits, timeouts, conflicts, restarts, and a schema
//! that goes away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::servers::{Postgres, PostgresSetup};
use lock_conformance::tls::working::is_renewed;
use lock_core::{
    Claim, Claimed, Clock, Connector, End, ErrorKind, LockClient, LockKey, Mode, Permit, StoreUrl,
    SystemClock, Ticket,
};
use lock_postgres::sqlx::{self, AssertSqlSafe, Connection, Executor, PgConnection};
use lock_postgres::{PostgresConnector, PostgresOptions};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::fixtures::clients::{
    LONG, PATIENCE, SECOND, acquired, answer, backend, client, connect, session, until, waiting, within,
};
use crate::fixtures::{PASSWORD, user};

const TTL: Duration = Duration::from_secs(2);

/// One of the two connections that a client has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    Statements,
    News,
    Both,
}

/// The last thing that was asked on the connection for news: to listen, or whether it is still there.
const NEWS: &str = "(query LIKE 'LISTEN %' OR query = 'SELECT 1')";

/// Ends it, once there is one.
async fn ended(server: &Postgres, name: &str, which: Which) {
    let (those, count) = match which {
        Which::Statements => (format!("AND NOT {NEWS}"), 1),
        Which::News => (format!("AND {NEWS}"), 1),
        Which::Both => (String::new(), 2),
    };
    let of = format!("FROM pg_stat_activity WHERE application_name = '{name}' {those}");
    let what = format!("{which:?} of {name}");
    until(&what, async || server.run(&format!("SELECT count(*) {of}")).await.unwrap() == count.to_string())
        .await;
    server.run(&format!("SELECT count(pg_terminate_backend(pid)) {of}")).await.unwrap();
}

fn named(server: &Postgres, name: &str, ttl: Duration) -> LockClient {
    client(&format!("{}?application_name={name}", server.url()), ttl)
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_connection_is_ended_a_hold_goes_on_and_a_waiter_is_served() {
    for which in [Which::Statements, Which::News, Which::Both] {
        let server = Postgres::start().await.unwrap();
        let (holder, waiter) = (named(&server, "holder", TTL), named(&server, "waiter", LONG));
        for _ in 0..3 {
            let held = holder.mutex("k").unwrap().acquire().await.unwrap();
            let next = waiting(&waiter, "k").await;
            for name in ["holder", "waiter"] {
                ended(&server, name, which).await;
            }
            is_renewed(&held, TTL * 3 / 2).await.unwrap();
            // And just before it is handed over: its lease is too long for a renewal to find out.
            ended(&server, "waiter", which).await;
            let released = held.release().await;
            assert!(matches!(released, Ok(End::Released)), "{which:?}: {released:?}");
            let next = within(10 * SECOND, &format!("the grant ({which:?})"), answer(next)).await.unwrap();
            // On a connection that has ended it is not heard at once, and goes on by itself.
            if let Err(error) = next.release().await {
                assert!(error.is_retryable() && which != Which::News, "{which:?}: {error:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_ended_again_and_again_take_no_hold_along() {
    let server = Postgres::start().await.unwrap();
    let holder = named(&server, "holder", 4 * SECOND);
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + 6 * SECOND;
    while clock.boot() < end {
        server.disconnect().await.unwrap();
        assert!(held.state().is_held(), "{:?}", held.state());
        match holder.mutex("other").unwrap().try_acquire().await {
            Ok(Ok(guard)) => drop(guard.release().await),
            Ok(Err(busy)) => panic!("{busy:?}"),
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    // The last disconnection may be met only now. Then the engine goes on with it.
    let released = held.release().await;
    assert!(matches!(released, Ok(End::Released)) || released.is_err_and(|error| error.is_retryable()));
    acquired(&holder, "k").await.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_room_for_one_connection_only_it_is_said_that_two_are_needed() {
    let server = Postgres::start().await.unwrap();
    connect(&server.url()).await.unwrap();
    user(&server, "locks").await.unwrap();
    let url = server.url_of("locks", PASSWORD);
    for limit in [0, 1] {
        server.run(&format!("ALTER ROLE locks CONNECTION LIMIT {limit}")).await.unwrap();
        let error = within(10 * SECOND, "an answer", connect(&url)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{limit}: {error}");
        assert!(error.message().contains("two are needed for each process"), "{limit}: {error}");
    }
    // Who is patient is served once there is room.
    let locks = client(&url, TTL);
    let lock = locks.mutex("k").unwrap();
    let mut acquiring = JoinSet::from_iter([async move { lock.acquire().await }]);
    until("it has tried", async || server.connections().await.unwrap() > 0).await;
    server.run("ALTER ROLE locks CONNECTION LIMIT 2").await.unwrap();
    let held = within(PATIENCE, "a grant", acquiring.join_next()).await.unwrap().unwrap().unwrap();
    // And keeps what it has where there is none any more.
    server.run("ALTER ROLE locks CONNECTION LIMIT 0").await.unwrap();
    is_renewed(&held, TTL * 3 / 2).await.unwrap();
    server.disconnect().await.unwrap();
    let error = locks.mutex("other").unwrap().try_acquire().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    server.run("ALTER ROLE locks CONNECTION LIMIT -1").await.unwrap();
    acquired(&locks, "other").await.release().await.unwrap();
}

/// A client of a role that has this setting, and a connection of the administrator's.
async fn with_setting(server: &Postgres, setting: &str) -> (String, PgConnection) {
    connect(&server.url()).await.unwrap();
    user(server, "locks").await.unwrap();
    server.run(&format!("ALTER ROLE locks SET {setting}")).await.unwrap();
    (server.url_of("locks", PASSWORD), PgConnection::connect(&server.url()).await.unwrap())
}

/// Our own statements wait for nobody's for long: one that only tries is told that the lock is busy, and one that waits tries again.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_keeps_is_a_lock_that_is_busy() {
    let server = Postgres::start().await.unwrap();
    let locks = client(&server.url(), LONG);
    let lock = locks.mutex("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    let mut transaction = admin.begin().await.unwrap();
    (&mut *transaction).execute("SELECT FROM fencepost.lock FOR UPDATE").await.unwrap();
    let tried = within(PATIENCE, "an answer", lock.try_acquire()).await.unwrap();
    assert!(tried.is_err(), "{tried:?}");
    let mut acquiring = JoinSet::from_iter([async move { lock.acquire().await }]);
    let log = server.directory().join("server.log");
    let canceled = || std::fs::read_to_string(&log).unwrap().matches("due to lock timeout").count();
    let before = canceled();
    until("it has tried again", async || canceled() >= before + 2).await;
    transaction.rollback().await.unwrap();
    let held = within(PATIENCE, "a grant", acquiring.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(held.release().await.unwrap(), End::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_do_nothing_in_time_is_told_so() {
    let server = Postgres::start().await.unwrap();
    // Less than our own statements wait for a table.
    let (url, mut admin) = with_setting(&server, "statement_timeout = '50ms'").await;
    let mut transaction = admin.begin().await.unwrap();
    (&mut *transaction).execute("LOCK TABLE fencepost.session").await.unwrap();
    let error = client(&url, TTL).mutex("k").unwrap().try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::TimedOut, true), "{error}");
    assert!(error.message().contains("statement_timeout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_when_they_are_idle_are_made_anew() {
    let server = Postgres::start().await.unwrap();
    let (url, _) = with_setting(&server, "idle_session_timeout = '700ms'").await;
    let (holder, waiter) = (client(&url, 3 * SECOND), client(&url, LONG));
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let next = waiting(&waiter, "k").await;
    is_renewed(&held, 4 * SECOND).await.unwrap();
    assert_eq!(held.release().await.unwrap(), End::Released);
    let next = within(10 * SECOND, "the grant", answer(next)).await.unwrap();
    assert_eq!(next.release().await.unwrap(), End::Released);
}

/// The server has ended the connection for statements, and nobody has noticed: the one for news is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_to_a_connection_that_has_ended_goes_to_the_next() {
    let server = Postgres::start().await.unwrap();
    let (url, _) = with_setting(&server, "idle_session_timeout = 0").await;
    let client = client(&url, LONG);
    let held = acquired(&client, "k").await;
    server.run("ALTER ROLE locks SET idle_session_timeout = '500ms'").await.unwrap();
    let those = format!("FROM pg_stat_activity WHERE usename = 'locks' AND NOT {NEWS}");
    server.run(&format!("SELECT count(pg_terminate_backend(pid)) {those}")).await.unwrap();
    until("there is another one", async || client.inspect("k").await.is_ok()).await;
    let ended = async || {
        let count = format!("SELECT count(*) {those}");
        until("it has ended", async || server.run(&count).await.unwrap() == "0").await;
    };
    ended().await;
    assert_eq!(client.inspect("k").await.unwrap().holders.len(), 1);
    ended().await;
    assert_eq!(held.release().await.unwrap(), End::Released);
}

const STRICTER: [&str; 2] = ["repeatable read", "serializable"];

#[tokio::test(flavor = "multi_thread")]
async fn locks_work_for_a_role_whose_transactions_are_stricter_than_usual() {
    for isolation in STRICTER {
        let server = Postgres::start().await.unwrap();
        let (url, _) = with_setting(&server, &format!("default_transaction_isolation = '{isolation}'")).await;
        let inside = Arc::new(AtomicUsize::new(0));
        let mut working = JoinSet::new();
        for number in 0..8 {
            let (client, inside) = (client(&url, TTL), inside.clone());
            working.spawn(async move {
                for _ in 0..15 {
                    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                    client
                        .mutex(format!("of {number}"))
                        .unwrap()
                        .acquire()
                        .await
                        .unwrap()
                        .release()
                        .await
                        .unwrap();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(guard.release().await.unwrap(), End::Released);
                }
            });
        }
        while let Some(worked) = within(PATIENCE, "the end of the work", working.join_next()).await {
            worked.unwrap();
        }
    }
}

/// It comes to the key while the release is under way, and looks at what that has left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_given_back_is_not_granted_to_such_a_role_either() {
    for isolation in STRICTER {
        let server = Postgres::start().await.unwrap();
        let (url, mut admin) =
            with_setting(&server, &format!("default_transaction_isolation = '{isolation}'")).await;
        let backend = backend(&url);
        let session = session(&backend, LONG).await.unwrap();
        let claim =
            |ticket| Claim::new(LockKey::new("k").unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX);
        assert!(matches!(session.claim(&claim(1)).await.unwrap(), Claimed::Granted { .. }));
        session.release(&claim(1).reference(), lock_core::Certainty::Settled).await.unwrap();
        let mut release = admin.begin().await.unwrap();
        let sql = format!(r"SELECT fencepost.release_one('\x{}', 2, 'k', true)", session.id());
        (&mut *release).execute(AssertSqlSafe(sql)).await.unwrap();
        let copy = session.clone();
        let mut late = JoinSet::from_iter([async move { copy.claim(&claim(2)).await }]);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until("it waits for the row", async || server.run(waits).await.unwrap() == "1").await;
        release.commit().await.unwrap();
        let answer = within(PATIENCE, "an answer", late.join_next()).await.unwrap().unwrap();
        assert!(answer.is_err(), "{isolation}: {answer:?}");
        let state = backend.inspect(&LockKey::new("k").unwrap()).await.unwrap();
        assert!(state.holders.is_empty(), "{isolation}: {state:?}");
    }
}

/// Somebody who locks rows in another order than ours is not waited for, and gets them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_locks_rows_in_another_order_meets_no_deadlock() {
    let server = Postgres::start().await.unwrap();
    let locks = client(&server.url(), LONG);
    let log = locked_in_another_order(&server, &locks, "").await;
    assert!(!log.contains("deadlock detected"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_picked_out_of_a_deadlock_tries_again() {
    let server = PostgresSetup::new().setting("deadlock_timeout", "2s").start().await.unwrap();
    let locks = client(&server.url(), LONG);
    acquired(&locks, "a").await.release().await.unwrap();
    // As it is, no statement of ours waits long enough to be picked out.
    for function in ["apply", "apply_one"] {
        server.run(&format!("ALTER FUNCTION fencepost.{function} SET lock_timeout = '1min'")).await.unwrap();
    }
    // He does not look for one himself.
    let log = locked_in_another_order(&server, &locks, "SET LOCAL deadlock_timeout = '1h'").await;
    assert!(log.contains("deadlock detected"), "{log}");
}

/// Claims that go together lock their keys in one order; somebody else, who begins like this, does it in the other. All are granted in
/// the end. Returns the server's log from before that.
async fn locked_in_another_order(server: &Postgres, locks: &LockClient, begins: &'static str) -> String {
    for key in ["a", "b", "x"] {
        locks.mutex(key).unwrap().acquire().await.unwrap().release().await.unwrap();
    }
    let [mut admin, mut other] = [
        PgConnection::connect(&server.url()).await.unwrap(),
        PgConnection::connect(&server.url()).await.unwrap(),
    ];
    let row = |key: &str| AssertSqlSafe(format!("SELECT FROM fencepost.lock WHERE key = '{key}' FOR UPDATE"));
    let mut first = other.begin().await.unwrap();
    (&mut *first).execute(row("x")).await.unwrap();
    let mut second = admin.begin().await.unwrap();
    (&mut *second).execute(begins).await.unwrap();
    (&mut *second).execute(row("b")).await.unwrap();
    let mut acquiring = JoinSet::new();
    for key in ["x", "a", "b"] {
        let lock = locks.mutex(key).unwrap();
        acquiring.spawn(async move { lock.acquire().await });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until("the first waits for its row", async || server.run(waits).await.unwrap() == "1").await;
    }
    first.rollback().await.unwrap();
    let behind = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity s USING (pid) \
                  WHERE l.locktype = 'transactionid' AND NOT l.granted AND s.query LIKE '%apply%'";
    until("they wait for b", async || server.run(behind).await.unwrap() == "1").await;
    (&mut *second).execute(row("a")).await.unwrap();
    let log = std::fs::read_to_string(server.directory().join("server.log")).unwrap();
    second.rollback().await.unwrap();
    for _ in 0..3 {
        let held = within(PATIENCE, "a grant", acquiring.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(held.release().await.unwrap(), End::Released);
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_or_crashes_and_starts_again_keeps_the_hold_and_serves_the_queue() {
    let server = Postgres::start().await.unwrap();
    let clients: Vec<_> = (0..5).map(|_| client(&server.url(), 20 * SECOND)).collect();
    for orderly in [true, false] {
        let held = acquired(&clients[0], "k").await;
        let mut queue = JoinSet::new();
        for (place, client) in clients[1..].iter().enumerate() {
            let waiting = waiting(client, "k").await;
            queue.spawn(async move {
                let next = answer(waiting).await.unwrap();
                let token = next.token();
                assert_eq!(next.release().await.unwrap(), End::Released);
                (token, place)
            });
        }
        if orderly {
            server.shut_down().await.unwrap();
        } else {
            server.kill().await.unwrap();
        }
        server.start_again().await.unwrap();
        assert!(held.state().is_held(), "{:?}", held.state());
        let token = held.token();
        assert_eq!(held.release().await.unwrap(), End::Released);
        let mut served = queue.join_all().await;
        served.sort_unstable();
        assert!(served.len() == 4 && served[0].0 > token, "{served:?}");
        // A place in the queue is nothing for which a commit waits for the disk: whoever lost his in a crash has queued up again.
        assert!(!orderly || served.is_sorted_by_key(|(_, place)| place), "{served:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_goes_away_under_a_client_is_said_to_and_used_again_when_it_is_back() {
    let server = Postgres::start().await.unwrap();
    let locks = client(&server.url(), TTL);
    let held = locks.mutex("k").unwrap().acquire().await.unwrap();
    server.run("DROP SCHEMA fencepost CASCADE").await.unwrap();
    let error = locks.mutex("other").unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
    assert!(error.message().contains("the schema is missing here"), "{error}");
    let end = within(TTL + SECOND, "the end of the hold", held.ending()).await;
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    let error = locks.inspect("k").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");

    connect(&server.url()).await.unwrap();
    let again = acquired(&locks, "k").await;
    assert!(again.token() > held.token());
    assert_eq!(again.release().await.unwrap(), End::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_come_at_once_to_an_empty_database_make_one_schema() {
    const MANY: usize = 16;
    let server = Postgres::start().await.unwrap();
    for schema in ["one", "two", "three"] {
        let (start, mut coming) = (Arc::new(Barrier::new(MANY)), JoinSet::new());
        for number in 0..MANY {
            let (url, start) = (server.url(), start.clone());
            coming.spawn(async move {
                let options = PostgresOptions::new().schema(schema).connect_timeout(PATIENCE);
                start.wait().await;
                let backend = PostgresConnector::with_options(options)
                    .connect(&mut StoreUrl::parse(&url).unwrap())
                    .await
                    .unwrap();
                let client = LockClient::builder(backend).build().unwrap();
                client.mutex(format!("{number}")).unwrap().acquire().await.unwrap().release().await.unwrap();
                client.mutex("all").unwrap().acquire().await.unwrap().release().await.unwrap();
            });
        }
        while let Some(came) = coming.join_next().await {
            came.unwrap();
        }
        let versions = format!("SELECT string_agg(version::text, ' ') FROM {schema}.migration");
        assert_eq!(server.run(&versions).await.unwrap(), "1");
        let held: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT count(*) FROM {schema}.lock WHERE holders <> '{{}}'"
        )))
        .fetch_one(&mut PgConnection::connect(&server.url()).await.unwrap())
        .await
        .unwrap();
        assert_eq!(held, 0);
    }
}
