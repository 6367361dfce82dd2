//! [`Standalone`]: one Redis server, and what the suite does to it behind its clients' back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, Reply, WallClock};
use lock_conformance::{CONNECT_TIMEOUT, Fixture, Impairment, Remote, SkewedClock};
use lock_core::{Backend, Connector, Error, LockKey, Result, SessionId, StoreUrl, async_trait};
use lock_redis::redis::aio::MultiplexedConnection;
use lock_redis::{RedisConnector, RedisOptions, redis};

const PASSWORD: &str = "the-password-of-the-suite";

/// The commands that an account for locks has to have, beside the keys `~fencepost:{00}:*` and the channels
/// `&fencepost:{00}:*`. With `CONFIG|GET` and `INFO` on top of them the probe can say more than that it does not know.
const COMMANDS: &[&str] = &[
    // Sent by the client.
    "EVAL",
    "EVALSHA",
    "SCRIPT|LOAD",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "SCAN",
    "MGET",
    // Sent by the scripts, in the client's name.
    "DEL",
    "EXISTS",
    "GET",
    "GETRANGE",
    "HDEL",
    "HGET",
    "HSET",
    "PEXPIRE",
    "PEXPIREAT",
    "PEXPIRETIME",
    "PTTL",
    "SPUBLISH",
    "SADD",
    "SET",
    "SETRANGE",
    "SISMEMBER",
    "TIME",
    "ZADD",
    "ZRANGE",
    "ZREM",
    "ZSCORE",
];

pub(crate) struct Standalone {
    redis: Redis,
    clock: SkewedClock,
    /// The one connection that is left when there is no room for another.
    last: Mutex<Option<MultiplexedConnection>>,
}

impl Standalone {
    pub(crate) async fn start() -> Result<Standalone> {
        let wall = WallClock::new()?;
        let mut setup = RedisSetup::new().persistent().password(PASSWORD);
        for (variable, value) in wall.environment() {
            setup = setup.environment(variable, value);
        }
        // The processes end here, the machine does not: what was written is there, also if it is not on the disk yet.
        let redis = setup.arguments(["--appendfsync", "no"]).start().await?;
        let clock = SkewedClock::new();
        clock.shown_on(wall)?;
        Ok(Standalone { redis, clock, last: Mutex::default() })
    }

    async fn done(&self, words: &[&str]) -> Result<Reply> {
        match self.redis.command(words.iter().copied()).await? {
            Reply::Error(error) => Err(Error::unavailable(format!("{}: {error}", words.join(" ")))),
            reply => Ok(reply),
        }
    }

    async fn set(&self, setting: &str, value: &str) -> Result<()> {
        self.done(&["CONFIG", "SET", setting, value]).await.map(|_| ())
    }

    /// A client whose account has just the commands above, for the names of one namespace.
    async fn account(&self, user: &str, namespace: &str) -> Result<Arc<dyn Backend>> {
        let (password, keys, channels) =
            (format!(">{PASSWORD}"), format!("~{namespace}:{{00}}:*"), format!("&{namespace}:{{00}}:*"));
        let commands: Vec<_> = COMMANDS.iter().map(|command| format!("+{command}")).collect();
        let mut words =
            vec!["ACL", "SETUSER", user, "reset", "on", &password, &keys, "resetchannels", &channels];
        words.extend(commands.iter().map(String::as_str));
        self.done(&words).await?;
        join(format!("redis://{user}:{PASSWORD}@{}", self.redis.address())).await
    }

    fn last(&self, connection: Option<MultiplexedConnection>) -> Option<MultiplexedConnection> {
        std::mem::replace(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner), connection)
    }
}

#[async_trait]
impl Fixture for Standalone {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend_through(&self.endpoint()).await
    }

    fn address(&self) -> Option<String> {
        Some(url(&self.endpoint()))
    }

    fn clock(&self) -> Option<SkewedClock> {
        Some(self.clock.clone())
    }

    async fn forget(&self, key: &LockKey) -> Result<()> {
        let names = ["l", "q", "w"].map(|kind| format!("fencepost:{{00}}:{kind}:{}", key.encoded()));
        self.done(&["DEL", &names[0], &names[1], &names[2]]).await.map(|_| ())
    }

    async fn set_fence(&self, key: &LockKey, token: u64) -> Result<()> {
        let name = format!("fencepost:{{00}}:l:{}", key.encoded());
        self.done(&["SET", &name, &token.to_string()]).await.map(|_| ())
    }

    /// Without what goes by itself: the records of idle keys with time, withdrawn claims with their session.
    async fn size(&self) -> Result<Option<usize>> {
        let Reply::List(keys) = self.done(&["KEYS", "*"]).await? else { return Ok(None) };
        let mut size = 0;
        for name in keys.iter().filter_map(text) {
            if name.contains("}:l:") {
                let record = self.done(&["GET", name]).await?;
                size += usize::from(text(&record).is_some_and(|record| record.contains(' ')));
            } else {
                size += usize::from(!name.contains("}:t:"));
            }
        }
        Ok(Some(size))
    }

    async fn restart(&self) -> Result<()> {
        self.redis.kill().await?;
        self.redis.start_again().await
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

#[async_trait]
impl Remote for Standalone {
    fn endpoint(&self) -> String {
        self.redis.address()
    }

    async fn backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        join(url(address)).await
    }

    fn lazy_backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        lock_redis::backend(&driver(&url(address))?, options())
    }

    async fn kill(&self) -> Result<()> {
        self.redis.kill().await
    }

    async fn start_again(&self) -> Result<()> {
        self.redis.start_again().await
    }

    async fn start_again_empty(&self) -> Result<()> {
        self.redis.start_again_empty().await
    }

    async fn stop(&self) -> Result<()> {
        self.redis.stop()
    }

    async fn go_on(&self) -> Result<()> {
        self.redis.go_on()
    }

    async fn disconnect(&self) -> Result<()> {
        for kind in ["normal", "pubsub"] {
            self.done(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await?;
        }
        Ok(())
    }

    async fn end_session(&self, session: SessionId) -> Result<()> {
        self.done(&["DEL", &format!("fencepost:{{00}}:s:{session}")]).await.map(|_| ())
    }

    async fn forget_scripts(&self) -> Result<()> {
        self.done(&["SCRIPT", "FLUSH", "SYNC"]).await.map(|_| ())
    }

    async fn refuse_connections(&self) -> Result<()> {
        let last =
            driver(&url(&self.endpoint()))?.get_multiplexed_async_connection().await.map_err(failed)?;
        self.last(Some(last));
        self.set("maxclients", "1").await
    }

    fn impairments(&self) -> Vec<Impairment> {
        vec![
            Impairment { name: "out of memory", passes: true },
            Impairment { name: "too few replicas", passes: true },
            Impairment { name: "read-only", passes: false },
        ]
    }

    async fn impair(&self, how: &str) -> Result<()> {
        match how {
            "out of memory" => self.set("maxmemory", "1").await,
            "too few replicas" => self.set("min-replicas-to-write", "1").await,
            // A replica, whose primary is nobody.
            "read-only" => self.done(&["REPLICAOF", "127.0.0.1", "1"]).await.map(|_| ()),
            _ => Err(Error::invalid(format!("no impairment of Redis: {how}"))),
        }
    }

    async fn mend(&self) -> Result<()> {
        if let Some(mut last) = self.last(None) {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxclients").arg(10_000);
            command.exec_async(&mut last).await.map_err(failed)?;
        }
        self.done(&["REPLICAOF", "NO", "ONE"]).await?;
        self.set("maxmemory", "0").await?;
        self.set("min-replicas-to-write", "0").await
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    async fn stranger(&self) -> Result<Arc<dyn Backend>> {
        join(format!("redis://:not-{PASSWORD}@{}", self.endpoint())).await
    }

    async fn least_privileged(&self) -> Result<Arc<dyn Backend>> {
        self.account("locks", "fencepost").await
    }

    async fn foreign(&self) -> Result<Arc<dyn Backend>> {
        self.account("neighbour", "neighbour").await
    }
}

/// Also a child's way to the server.
pub(crate) async fn join(url: String) -> Result<Arc<dyn Backend>> {
    RedisConnector::with_options(options()).connect(&mut StoreUrl::parse(&url)?).await
}

/// Idle keys go soon, so that a scenario sees what becomes of them.
fn options() -> RedisOptions {
    RedisOptions::new().idle_after(Duration::from_millis(50)).connect_timeout(CONNECT_TIMEOUT)
}

fn url(address: &str) -> String {
    format!("redis://:{PASSWORD}@{address}")
}

fn driver(url: &str) -> Result<redis::Client> {
    redis::Client::open(url).map_err(failed)
}

fn failed(error: redis::RedisError) -> Error {
    Error::unavailable("the suite's own connection").caused_by(error)
}

fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Text(text) => Some(text),
        _ => None,
    }
}
