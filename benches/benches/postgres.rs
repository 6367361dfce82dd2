//! Locks in Postgres. Their floor: a bare commit of one row to take and one to give back, each task on a connection of its own. A
//! hand-off is measured by a commit. The server waits for the disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_conformance::servers::{self, PostgresSetup};
use lock_core::{Backend, StoreUrl};
use lock_postgres::PostgresConnector;
use lock_postgres::sqlx::postgres::PgConnection;
use lock_postgres::sqlx::{Connection, query, query_scalar};
use tokio::runtime::Runtime;

struct Postgres {
    server: servers::Postgres,
    floors: AtomicI32,
    /// What started the server.
    _runtime: Runtime,
}

fn start() -> Postgres {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(async {
        let server = PostgresSetup::new().durable().setting("max_connections", "300").start().await.unwrap();
        server
            .run("CREATE TABLE floor (id int PRIMARY KEY, holder text NOT NULL) WITH (fillfactor = 50)")
            .await
            .unwrap();
        server
    });
    Postgres { server, floors: AtomicI32::new(0), _runtime: runtime }
}

fn open(url: &str) -> Arc<dyn Backend> {
    PostgresConnector::new().open(&mut StoreUrl::parse(url).unwrap()).unwrap()
}

#[async_trait]
impl Subject for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open(&self.server.url())
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let connection = PgConnection::connect(&self.server.url()).await.unwrap();
        let id = self.floors.fetch_add(1, Ordering::Relaxed);
        let mut floor = Bare { connection, id };
        query("INSERT INTO floor VALUES ($1, '')").bind(id).execute(&mut floor.connection).await.unwrap();
        Box::new(floor)
    }

    fn address(&self) -> Option<String> {
        Some(self.server.url())
    }
}

/// As long as a session's name and what is said of a holder.
const HOLDER: &str = "00112233445566778899aabbccddeeff 1234 1 1 s exclusive  12345,some-host.example,,,";

struct Bare {
    connection: PgConnection,
    id: i32,
}

impl Bare {
    async fn commit(&mut self, holder: &str) {
        let update = query("UPDATE floor SET holder = $2 WHERE id = $1").bind(self.id).bind(holder);
        assert_eq!(update.execute(&mut self.connection).await.unwrap().rows_affected(), 1);
    }
}

#[async_trait]
impl Floor for Bare {
    async fn cycle(&mut self) {
        self.commit(HOLDER).await;
        self.commit("").await;
    }

    async fn halves(&mut self) -> Option<[Duration; 2]> {
        let start = Instant::now();
        self.commit(HOLDER).await;
        let taken = Instant::now();
        self.commit("").await;
        Some([taken - start, taken.elapsed()])
    }

    async fn busy(&mut self) {
        let look = query_scalar("SELECT holder FROM floor WHERE id = $1").bind(self.id);
        let _holder: String = look.fetch_one(&mut self.connection).await.unwrap();
    }

    async fn round_trip(&mut self) -> bool {
        self.commit(HOLDER).await;
        true
    }
}

fn main() {
    lock_benches::run(|| Box::new(start()), open);
}
