//! Writes that commit with their lock, and tables that reject stale tokens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::servers::Postgres;
use lock_core::{
    AcquireOptions, Clock, Connector, End, ErrorKind, Fence, FencingToken, LockClient, MemoryBackend, Mode,
    Prefix, StoreUrl, SystemClock, Wait, within,
};
use lock_postgres::PostgresConnector;
use lock_postgres::sqlx::postgres::{PgConnection, PgDatabaseError};
use lock_postgres::sqlx::{
    AssertSqlSafe, Connection, Error, Executor, query, query_as, query_scalar, raw_sql,
};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

struct Stage {
    server: Postgres,
}

impl Stage {
    async fn new() -> Stage {
        let server = Postgres::start().await.unwrap();
        server.run("CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL); INSERT INTO account VALUES (1, 0)").await.unwrap();
        Stage { server }
    }

    async fn client(&self, ttl: Duration) -> LockClient {
        let mut url = StoreUrl::parse(&self.server.url()).unwrap();
        LockClient::builder(PostgresConnector::new().connect(&mut url).await.unwrap())
            .ttl(ttl)
            .build()
            .unwrap()
    }

    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.server.url()).await.unwrap()
    }

    async fn balance(&self) -> i32 {
        self.server.run("SELECT balance FROM account").await.unwrap().trim().parse().unwrap()
    }
}

async fn deposit(transaction: &mut PgConnection) {
    query("UPDATE account SET balance = balance + 1").execute(transaction).await.unwrap();
}

fn sqlstate(error: &Error) -> &str {
    error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>().code()
}

/// Waits for at most so long.
fn patient(time: Duration) -> AcquireOptions {
    AcquireOptions::new().wait(Wait::AtMost(time))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_holder_writes_commits_with_its_lock() {
    let stage = Stage::new().await;
    let (client, mut data) = (stage.client(10 * SECOND).await, stage.connection().await);
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &guard).await.unwrap();
    deposit(&mut transaction).await;
    transaction.commit().await.unwrap();
    assert_eq!((stage.balance().await, guard.release().await.unwrap()), (1, End::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_lost_its_lock_writes_nothing() {
    let stage = Stage::new().await;
    let (client, mut data) = (stage.client(10 * SECOND).await, stage.connection().await);
    let paused = client.mutex("k").unwrap().acquire().await.unwrap();
    client.force_release("k", None).await.unwrap();
    let successor = client.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    let error = lock_postgres::fence(&mut transaction, &paused).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error:?}");
    // What is written all the same is not committed.
    assert!(query("UPDATE account SET balance = 7").execute(&mut *transaction).await.is_err());
    transaction.rollback().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &successor).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(stage.balance().await, 0);
}

/// Its lease runs out in the middle of its transaction. Nobody has the lock before that has ended; and then somebody does.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_over_from_a_transaction() {
    let stage = Stage::new().await;
    let (holder, other) = (stage.client(SECOND).await, stage.client(10 * SECOND).await);
    let mut data = stage.connection().await;
    let guard = holder.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &guard).await.unwrap();
    // As if its process had died, but for the transaction.
    stage.server.run("UPDATE fencepost.session SET expires_at = 0 WHERE id IN (SELECT (holders[1]).session FROM fencepost.lock)").await.unwrap();
    let lock = other.mutex("k").unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    assert!(other.mutex("k").unwrap().acquire_with(&patient(SECOND)).await.is_err());
    let error = other.force_release("k", None).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("a transaction has fenced"), "{error}");
    assert!(waiting.try_join_next().is_none());
    deposit(&mut transaction).await;
    transaction.commit().await.unwrap();
    let next = within(&SystemClock::new(), 5 * SECOND, waiting.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(next.token() > guard.token());
    assert_eq!(stage.balance().await, 1);
}

/// The holder's transaction is open. Its own session is renewed, other keys are granted and handed over, and others join the queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_keeps_nobody_else_waiting() {
    let stage = Stage::new().await;
    let (client, other) = (stage.client(3 * SECOND).await, stage.client(3 * SECOND).await);
    let mut data = stage.connection().await;
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &guard).await.unwrap();
    let lock = other.mutex("k").unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    while client.inspect("k").await.unwrap().queue.is_empty() {
        tokio::task::yield_now().await;
    }
    let clock = SystemClock::new();
    let end = clock.boot() + 4 * SECOND;
    let mut longest = Duration::ZERO;
    while clock.boot() < end {
        let began = clock.boot();
        let own = client.mutex("another").unwrap().acquire().await.unwrap();
        own.release().await.unwrap();
        longest = longest.max(clock.boot().since(began));
    }
    assert!(guard.state().is_held(), "{:?}", guard.state());
    assert!(longest < SECOND, "{longest:?}");
    transaction.commit().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), End::Released);
    let _next =
        within(&SystemClock::new(), SECOND, waiting.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

/// A release comes too early: it is done when the transaction has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_for_the_transaction() {
    let stage = Stage::new().await;
    let (client, mut data) = (stage.client(10 * SECOND).await, stage.connection().await);
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &guard).await.unwrap();
    drop(guard);
    assert!(client.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    transaction.commit().await.unwrap();
    let next = client.mutex("k").unwrap().acquire_with(&patient(5 * SECOND)).await.unwrap();
    assert_eq!(next.release().await.unwrap(), End::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_readers_write_beside_each_other() {
    let stage = Stage::new().await;
    let client = stage.client(10 * SECOND).await;
    let lock = client.rw_lock("k").unwrap();
    let (first, second) = (lock.read().acquire().await.unwrap(), lock.read().acquire().await.unwrap());
    let (mut one, mut two) = (stage.connection().await, stage.connection().await);
    let mut transactions = (one.begin().await.unwrap(), two.begin().await.unwrap());
    lock_postgres::fence(&mut transactions.0, &first).await.unwrap();
    lock_postgres::fence(&mut transactions.1, &second).await.unwrap();
    transactions.0.commit().await.unwrap();
    transactions.1.commit().await.unwrap();
}

/// In any other transaction what was committed meanwhile cannot be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_looks_at_the_past_is_refused() {
    let stage = Stage::new().await;
    let (client, mut data) = (stage.client(10 * SECOND).await, stage.connection().await);
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut transaction = data.begin().await.unwrap();
        transaction
            .execute(raw_sql(AssertSqlSafe(format!("SET TRANSACTION ISOLATION LEVEL {level}"))))
            .await
            .unwrap();
        let error = lock_postgres::fence(&mut transaction, &guard).await.unwrap_err();
        assert!(error.to_string().contains("READ COMMITTED"), "{error}");
    }
}

/// The name of the key, the prefix of the client, the token: from any driver.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_fenced_in_sql() {
    let stage = Stage::new().await;
    let (plain, mut data) = (stage.client(10 * SECOND).await, stage.connection().await);
    let mut url = StoreUrl::parse(&stage.server.url()).unwrap();
    let backend = PostgresConnector::new().connect(&mut url).await.unwrap();
    let billing = LockClient::builder(backend).prefix(Prefix::new("billing").unwrap()).build().unwrap();
    let (one, two) = (
        plain.mutex("ü/1").unwrap().acquire().await.unwrap(),
        billing.mutex("ü/1").unwrap().acquire().await.unwrap(),
    );
    for (guard, prefix, stands) in [
        (&one, None, true),
        (&two, Some("billing"), true),
        (&one, Some("billing"), false),
        (&two, None, false),
    ] {
        let token = i64::try_from(guard.token().get()).unwrap();
        let fenced = query("SELECT fencepost.fence($1, $2, $3)")
            .bind("ü/1")
            .bind(token)
            .bind(prefix)
            .execute(&mut data)
            .await;
        match fenced {
            Ok(_) => assert!(stands, "{prefix:?}"),
            Err(error) => assert_eq!((sqlstate(&error), stands), ("FP001", false)),
        }
    }
}

/// Of another store there is no row to be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_of_another_store_fences_nothing_but_its_token_is_checked() {
    let stage = Stage::new().await;
    let mut data = stage.connection().await;
    drop(stage.client(SECOND).await);
    let memory = LockClient::builder(MemoryBackend::new()).build().unwrap();
    let guard = memory.mutex("k").unwrap().acquire().await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    let error = lock_postgres::fence(&mut transaction, &guard).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::WrongBackend);
    let token = i64::try_from(guard.token().get()).unwrap();
    check(&mut transaction, "account 1", "exclusive", token).await.unwrap();
}

async fn check(data: &mut PgConnection, resource: &str, mode: &str, token: i64) -> Result<(), Error> {
    let check = query("SELECT fencepost.check_fence($1, $2, $3)").bind(resource).bind(mode).bind(token);
    check.execute(data).await.map(drop)
}

/// Every sequence of four writes by tokens 1 to 3, exclusive or shared, is admitted or refused as the fence in memory does, and
/// leaves the same marks.
#[tokio::test(flavor = "multi_thread")]
async fn it_admits_what_a_fence_in_memory_admits() {
    let stage = Stage::new().await;
    drop(stage.client(SECOND).await);
    let mut data = stage.connection().await;
    let grants: Vec<_> = (1..=3)
        .flat_map(|number| [(Mode::Exclusive, "exclusive", number), (Mode::Shared, "shared", number)])
        .collect();
    for round in 0..grants.len().pow(4) {
        let (resource, mut fence) = (format!("r{round}"), Fence::new());
        for step in 0..4 {
            let (mode, word, number) = grants[round / grants.len().pow(step) % grants.len()];
            let here = fence.admit(mode, FencingToken::new(number).unwrap()).is_ok();
            let there = check(&mut data, &resource, word, i64::try_from(number).unwrap()).await;
            if let Err(error) = &there {
                assert_eq!(sqlstate(error), "FP002");
            }
            assert_eq!(there.is_ok(), here, "round {round}, step {step}: {word} {number}");
        }
        let marks: (i64, i64) = query_as("SELECT highest, exclusive FROM fencepost.mark WHERE resource = $1")
            .bind(&resource)
            .fetch_one(&mut data)
            .await
            .unwrap();
        let (highest, exclusive) = fence.marks();
        assert_eq!(
            marks,
            (i64::try_from(highest).unwrap(), i64::try_from(exclusive).unwrap()),
            "round {round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_and_no_mode_is_a_mistake() {
    let stage = Stage::new().await;
    drop(stage.client(SECOND).await);
    let mut data = stage.connection().await;
    for (mode, token) in [("exclusive", 0), ("exclusive", 1 << 53), ("Exclusive", 1), ("", 1)] {
        let error = check(&mut data, "r", mode, token).await.unwrap_err();
        assert_eq!(sqlstate(&error), "22023", "{mode:?} {token}");
    }
    for (mode, token) in [("exclusive", 1), ("permits", (1 << 53) - 1)] {
        check(&mut data, "r", mode, token).await.unwrap();
    }
}

/// What a table admits under one token is committed by the time that the next one is judged.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_that_race_the_later_one_waits_for_the_earlier() {
    let stage = Stage::new().await;
    drop(stage.client(SECOND).await);
    let (mut one, mut two) = (stage.connection().await, stage.connection().await);
    let mut first = one.begin().await.unwrap();
    check(&mut first, "r", "exclusive", 2).await.unwrap();
    let mut late = JoinSet::from_iter([async move { check(&mut two, "r", "exclusive", 1).await }]);
    first.commit().await.unwrap();
    assert_eq!(sqlstate(&late.join_next().await.unwrap().unwrap().unwrap_err()), "FP002");
}

/// The statements of `docs/fencing.md` do what it says of them.
#[tokio::test(flavor = "multi_thread")]
async fn columns_beside_the_data_reject_stale_tokens() {
    let page = include_str!("../../docs/fencing.md");
    let block =
        page.split("## In SQL").nth(1).unwrap().split("```sql").nth(1).unwrap().split("```").next().unwrap();
    let statements: Vec<String> = block
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect::<Vec<_>>()
        .join(" ")
        .split(';')
        .map(|text| {
            text.replace(":balance", "$1").replace(":now", "$1").replace(":token", "$2").replace(":id", "$3")
        })
        .filter(|text| !text.trim().is_empty())
        .collect();
    let [highest, exclusive, write, read] = &statements[..] else { panic!("{statements:?}") };
    let stage = Stage::new().await;
    let mut data = stage.connection().await;
    data.execute("ALTER TABLE account ADD COLUMN last_seen bigint").await.unwrap();
    for statement in [highest, exclusive] {
        data.execute(raw_sql(AssertSqlSafe(statement.clone()))).await.unwrap();
    }
    let mut fence = Fence::new();
    for (mode, number) in [
        (Mode::Shared, 5),
        (Mode::Exclusive, 4),
        (Mode::Exclusive, 6),
        (Mode::Shared, 6),
        (Mode::Shared, 8),
        (Mode::Shared, 7),
        (Mode::Exclusive, 7),
        (Mode::Exclusive, 8),
        (Mode::Exclusive, 8),
    ] {
        let (statement, cast) =
            if mode == Mode::Exclusive { (write, "$1::bigint::int") } else { (read, "$1::bigint") };
        let statement = statement.replace("$1", cast);
        let written =
            query(AssertSqlSafe(statement)).bind(9_i64).bind(number).bind(1_i32).execute(&mut data).await;
        let admitted = written.unwrap().rows_affected() == 1;
        let expected = fence.admit(mode, FencingToken::new(u64::try_from(number).unwrap()).unwrap()).is_ok();
        assert_eq!(admitted, expected, "{mode:?} {number}");
    }
    let marks: i64 = query_scalar("SELECT fence_highest FROM account").fetch_one(&mut data).await.unwrap();
    assert_eq!(u64::try_from(marks).unwrap(), fence.marks().0);
}
