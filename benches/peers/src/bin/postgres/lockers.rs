//! What takes and gives back: bare commits, `SELECT 1`, the schema's own function with one claim each, advisory locks, and ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use fencepost_peers::TTL;
use fencepost_peers::shapes::{Beside, Locker};
use lock_core::{Connector, Guard, Lock, LockClient, Result, SessionId, StoreUrl};
use lock_postgres::sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow};
use lock_postgres::sqlx::query::Query;
use lock_postgres::sqlx::{Connection, Postgres, Row, query};
use lock_postgres::{PostgresConnector, PostgresOptions};
use tokio::sync::Mutex;

/// What the bare commits change, a row for each key.
pub const TABLE: &str = "CREATE TABLE one (k bigint PRIMARY KEY, v bigint NOT NULL) WITH (fillfactor = 50); \
    INSERT INTO one SELECT k, 0 FROM generate_series(0, 4095) k";

/// Where statements go. What they say is prepared once on each connection.
#[derive(Clone)]
pub enum Through {
    Connection(Arc<Mutex<PgConnection>>),
    Pool(PgPool),
}

impl Through {
    pub async fn connection(url: &str) -> Through {
        let connection = PgConnection::connect(url).await.expect("a connection");
        Through::Connection(Arc::new(Mutex::new(connection)))
    }

    /// All connected, and none looked at before it is used: that would be one more round trip for each statement.
    pub async fn pool(url: &str, connections: u32) -> Through {
        let pool = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect(url);
        Through::Pool(pool.await.expect("connections"))
    }

    async fn one(&self, query: Query<'_, Postgres, PgArguments>) -> PgRow {
        let answer = match self {
            Through::Connection(connection) => query.fetch_one(&mut *connection.lock().await).await,
            Through::Pool(pool) => query.fetch_one(pool).await,
        };
        answer.expect("a row")
    }

    async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> u64 {
        let done = match self {
            Through::Connection(connection) => query.execute(&mut *connection.lock().await).await,
            Through::Pool(pool) => query.execute(pool).await,
        };
        done.expect("an end of it").rows_affected()
    }
}

/// The least that a lock in Postgres can be: a commit of one row to take, and another one to give back.
#[derive(Clone)]
pub struct Bare {
    through: Through,
    key: i64,
}

impl Bare {
    pub fn new(through: &Through, key: usize) -> Bare {
        Bare { through: through.clone(), key: key as i64 }
    }

    async fn commit(&self) {
        let update = query("UPDATE one SET v = v + 1 WHERE k = $1").bind(self.key);
        assert_eq!(self.through.execute(update).await, 1);
    }
}

impl Locker for Bare {
    type Held = ();

    async fn take(&mut self) {
        self.commit().await;
    }

    async fn give_back(&mut self, (): ()) {
        self.commit().await;
    }
}

/// The same where what gives back does not wait for the disk, as ours does not. A disk that has just flushed does it again more quickly
/// than one that had a pause, so a commit behind a commit is less than a commit is.
#[derive(Clone)]
pub struct Apart(pub Bare);

impl Locker for Apart {
    type Held = ();

    async fn take(&mut self) {
        self.0.commit().await;
    }

    async fn give_back(&mut self, (): ()) {
        let update = query(
            "UPDATE one SET v = v + 1 FROM set_config('synchronous_commit', 'off', true) c WHERE k = $1 AND c = 'off'",
        );
        assert_eq!(self.0.through.execute(update.bind(self.0.key)).await, 1);
    }
}

/// A question to which nothing has to be looked up.
#[derive(Clone)]
pub struct Select(pub Through);

impl Locker for Select {
    type Held = ();

    async fn take(&mut self) {
        self.0.one(query("SELECT 1")).await;
    }

    async fn give_back(&mut self, (): ()) {
        self.0.one(query("SELECT 1")).await;
    }
}

/// The schema's own function, with one claim or one release in each statement.
#[derive(Clone)]
pub struct Single {
    through: Through,
    session: Vec<u8>,
    key: Vec<u8>,
    tickets: Arc<AtomicI64>,
}

impl Single {
    /// The first of a session, which it opens.
    pub async fn open(through: &Through) -> Single {
        let session = SessionId::random().expect("random numbers").as_u128().to_be_bytes().to_vec();
        let open = query("SELECT fencepost.open($1, $2, $3, $4)")
            .bind(session.clone())
            .bind(TTL.as_micros() as i64)
            .bind(format!("fencepost_{}", "0".repeat(32)))
            .bind("12345,some-host.example,,,");
        through.one(open).await;
        Single { through: through.clone(), session, key: Vec::new(), tickets: Arc::default() }
    }

    pub fn on(&self, key: &str) -> Single {
        Single { key: key.as_bytes().to_vec(), ..self.clone() }
    }

    async fn apply(&self, op: &str, ticket: i64, permit: i64, kind: &str, mode: &str) -> String {
        let apply = query("SELECT outcome FROM fencepost.apply_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
            .bind(op)
            .bind(self.session.as_slice())
            .bind(ticket)
            .bind(self.key.as_slice())
            .bind(permit)
            .bind(permit)
            .bind(kind)
            .bind(0_i64)
            .bind(mode)
            .bind(b"".as_slice());
        self.through.one(apply).await.get(0)
    }
}

impl Locker for Single {
    type Held = i64;

    async fn take(&mut self) -> i64 {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        assert_eq!(self.apply("w", ticket, 1, "s", "exclusive").await, "granted");
        ticket
    }

    async fn give_back(&mut self, ticket: i64) {
        assert_eq!(self.apply("r", ticket, 0, "", "").await, "done");
    }
}

/// A lock of the server's own, which ends with the connection: without a lease, a fence or a commit.
#[derive(Clone)]
pub struct Advisory {
    /// The task's own, for whoever waits there keeps the others waiting.
    connection: Through,
    key: i64,
}

impl Advisory {
    pub fn new(connection: &Through, key: usize) -> Advisory {
        Advisory { connection: connection.clone(), key: key as i64 }
    }
}

impl Locker for Advisory {
    type Held = ();

    async fn take(&mut self) {
        self.connection.one(query("SELECT pg_advisory_lock($1)").bind(self.key)).await;
    }

    async fn give_back(&mut self, (): ()) {
        let unlocked = self.connection.one(query("SELECT pg_advisory_unlock($1)").bind(self.key)).await;
        assert!(unlocked.get::<bool, _>(0));
    }
}

/// One of our locks after the other.
#[derive(Clone)]
pub struct Ours {
    locks: Vec<Lock>,
    next: Arc<AtomicUsize>,
}

/// How many releases were refused for the time being.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

impl Ours {
    pub fn new(locks: Vec<Lock>) -> Ours {
        Ours { locks, next: Arc::default() }
    }

    /// How many releases were refused, of all of them. Each went on by itself.
    pub fn refused() -> usize {
        REFUSED.load(Ordering::Relaxed)
    }
}

impl Locker for Ours {
    type Held = Guard;

    async fn take(&mut self) -> Guard {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.locks.len();
        self.locks[next].take().await
    }

    async fn give_back(&mut self, held: Guard) {
        match held.release().await {
            Err(error) if error.is_retryable() => drop(REFUSED.fetch_add(1, Ordering::Relaxed)),
            ended => drop(ended.expect("a release")),
        }
    }
}

/// Counts those who wait, and commits a row.
#[derive(Clone)]
pub struct Aside {
    floor: Bare,
}

impl Aside {
    pub fn new(floor: Bare) -> Aside {
        Aside { floor }
    }
}

impl Beside for Aside {
    async fn places(&mut self) -> i64 {
        let count = query(
            "SELECT (SELECT count(*) FROM fencepost.waiter) + (SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory')",
        );
        self.floor.through.one(count).await.get(0)
    }

    async fn write(&mut self) {
        self.floor.commit().await;
    }
}

/// A client of ours with a session and connections of its own.
pub async fn ours(url: &str) -> Result<LockClient> {
    let connector =
        PostgresConnector::with_options(PostgresOptions::new().connect_timeout(Duration::from_secs(20)));
    let client =
        LockClient::builder(connector.connect(&mut StoreUrl::parse(url)?).await?).ttl(TTL).build()?;
    client.open().await?;
    Ok(client)
}
