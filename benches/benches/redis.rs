//! Locks in Redis. Their floor: `SET NX PX` and a script that compares and deletes, on one connection for all tasks.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_conformance::servers;
use lock_core::Backend;
use lock_redis::{RedisOptions, redis};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo, Script, Value};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

struct Redis {
    server: servers::Redis,
    floor: OnceCell<MultiplexedConnection>,
    floors: AtomicU64,
    /// What started the server.
    _runtime: Runtime,
}

fn start() -> Redis {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(servers::Redis::start()).unwrap();
    Redis { server, floor: OnceCell::new(), floors: AtomicU64::new(0), _runtime: runtime }
}

fn open(url: &str) -> Arc<dyn Backend> {
    lock_redis::backend(&redis::Client::open(url).unwrap(), RedisOptions::new()).unwrap()
}

#[async_trait]
impl Subject for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open(&self.server.url())
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let connection = self.floor.get_or_init(|| connect(self.server.url())).await.clone();
        let number = self.floors.fetch_add(1, Ordering::Relaxed);
        let held = format!("floor-held-{number}");
        let mut floor = Bare {
            connection,
            key: format!("floor-{number}"),
            held,
            script: Script::new(COMPARE_AND_DELETE),
        };
        floor.set(&floor.held.clone()).await;
        Box::new(floor)
    }

    fn address(&self) -> Option<String> {
        Some(self.server.url())
    }
}

/// Set up as the store's own connection is.
async fn connect(url: String) -> MultiplexedConnection {
    let info = url.into_connection_info().unwrap().set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1024);
    let client = redis::Client::open(info).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// As long as a session's name.
const OWNER: &str = "00112233445566778899aabbccddeeff";

struct Bare {
    connection: MultiplexedConnection,
    key: String,
    held: String,
    script: Script,
}

impl Bare {
    async fn set(&mut self, key: &str) -> Value {
        let mut command = Cmd::new();
        command.arg("SET").arg(key).arg(OWNER).arg("NX").arg("PX").arg(3_600_000);
        self.connection.send_packed_command(&command).await.unwrap()
    }
}

#[async_trait]
impl Floor for Bare {
    async fn cycle(&mut self) {
        let key = self.key.clone();
        assert_eq!(self.set(&key).await, Value::Okay);
        let deleted: i64 =
            self.script.key(&self.key).arg(OWNER).invoke_async(&mut self.connection).await.unwrap();
        assert_eq!(deleted, 1);
    }

    async fn busy(&mut self) {
        let held = self.held.clone();
        assert_eq!(self.set(&held).await, Value::Nil);
    }

    async fn round_trip(&mut self) -> bool {
        let pong = self.connection.send_packed_command(&redis::cmd("PING")).await.unwrap();
        pong == Value::SimpleString("PONG".into())
    }
}

fn main() {
    lock_benches::run(|| Box::new(start()), open);
}
