//! Locks in Redis, held to their promises: each scenario on a server of its own.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, Reply, WallClock};
use lock_conformance::{Fixture, Promises, SkewedClock, Suite};
use lock_core::{Backend, Connector, Error, LockKey, Result, StoreUrl, async_trait};
use lock_redis::{RedisConnector, RedisOptions};

struct Standalone {
    redis: Redis,
    clock: SkewedClock,
}

impl Standalone {
    async fn start() -> Result<Standalone> {
        let wall = WallClock::new()?;
        let mut setup = RedisSetup::new().persistent();
        for (variable, value) in wall.environment() {
            setup = setup.environment(variable, value);
        }
        // The processes end here, the machine does not: what was written is there, also if it is not on the disk yet.
        let redis = setup.arguments(["--appendfsync", "no"]).start().await?;
        let clock = SkewedClock::new();
        clock.shown_on(wall)?;
        Ok(Standalone { redis, clock })
    }

    async fn done(&self, words: &[&str]) -> Result<Reply> {
        match self.redis.command(words.iter().copied()).await? {
            Reply::Error(error) => Err(Error::unavailable(format!("{}: {error}", words.join(" ")))),
            reply => Ok(reply),
        }
    }
}

#[async_trait]
impl Fixture for Standalone {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        join(self.redis.url()).await
    }

    fn address(&self) -> Option<String> {
        Some(self.redis.url())
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
}

fn text(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Text(text) => Some(text),
        _ => None,
    }
}

/// Idle keys go soon, so that a scenario sees what becomes of them.
async fn join(url: String) -> Result<Arc<dyn Backend>> {
    let options = RedisOptions::new().idle_after(Duration::from_millis(50));
    RedisConnector::with_options(options).connect(&mut StoreUrl::parse(&url)?).await
}

fn main() -> ExitCode {
    Suite::new("redis", Standalone::start).promises(Promises::of_this_project("redis")).children(join).main()
}
