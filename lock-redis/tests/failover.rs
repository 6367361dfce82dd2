//! A primary and a replica, one of which takes over from the other: what happens then is what the page says.
//!
//! Clients reach the primary through an address that moves with it. That is not Sentinel: nobody here decides by itself.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_conformance::proxy::{Proxy, Way};
use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_conformance::{CONNECT_TIMEOUT, Fixture, Loss, Remote, Suite};
use lock_core::{Backend, Clock, Error, LockKey, Result, SystemClock, async_trait};
use lock_redis::{RedisOptions, redis};

/// A replica need not wait whether another one comes.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

struct Pair {
    /// The address that moves.
    front: Proxy,
    nodes: Mutex<Nodes>,
}

#[derive(Clone)]
struct Nodes {
    primary: Arc<Redis>,
    replica: Arc<Redis>,
    /// On the way from one to the other.
    link: Proxy,
}

impl Pair {
    async fn start() -> Result<Pair> {
        let nodes = Nodes::behind(Arc::new(RedisSetup::new().arguments(AT_ONCE).start().await?)).await?;
        Ok(Pair { front: Proxy::to(nodes.primary.address()).await?, nodes: Mutex::new(nodes) })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// A primary, and a replica that has all that it has.
    async fn behind(primary: Arc<Redis>) -> Result<Nodes> {
        let link = Proxy::to(primary.address()).await?;
        let of = format!("127.0.0.1 {}", link.port());
        let setup = RedisSetup::new().arguments(AT_ONCE).arguments(["--replicaof", &of]);
        let nodes = Nodes { primary, replica: Arc::new(setup.start().await?), link };
        nodes.synchronized().await?;
        Ok(nodes)
    }

    async fn synchronized(&self) -> Result<()> {
        let clock = SystemClock::new();
        let end = clock.boot() + CONNECT_TIMEOUT * 10;
        while clock.boot() < end {
            let (primary, replica) = (offset(&self.primary).await?, offset(&self.replica).await?);
            if primary.is_some() && primary == replica {
                return Ok(());
            }
            clock.sleep(CONNECT_TIMEOUT / 100).await;
        }
        Err(Error::unavailable("the replica does not catch up"))
    }
}

/// How far a node has come in the stream of writes; nothing while it is not part of one.
async fn offset(node: &Redis) -> Result<Option<u64>> {
    let Reply::Text(info) = node.command(["INFO", "replication"]).await? else { return Ok(None) };
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let is_down = field("master_link_status") == Some("down") || field("connected_slaves") == Some("0");
    let is_primary = field("role") == Some("master");
    let offset = field(if is_primary { "master_repl_offset" } else { "slave_repl_offset" });
    Ok(offset.filter(|_| !is_down || !is_primary).and_then(|offset| offset.parse().ok()))
}

#[async_trait]
impl Fixture for Pair {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend_through(&self.endpoint()).await
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

#[async_trait]
impl Remote for Pair {
    fn endpoint(&self) -> String {
        self.front.address()
    }

    async fn backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        let driver = redis::Client::open(format!("redis://{address}"))
            .map_err(|error| Error::invalid("no address").caused_by(error))?;
        lock_redis::backend(&driver, RedisOptions::new().connect_timeout(CONNECT_TIMEOUT))
    }

    async fn hold_back_replicas(&self, _: &LockKey) -> Result<()> {
        let nodes = self.nodes().clone();
        nodes.synchronized().await?;
        nodes.link.block(Way::Both);
        Ok(())
    }

    async fn lose_leader(&self, _: &LockKey, how: Loss) -> Result<()> {
        let old = self.nodes().clone();
        match how {
            Loss::Killed => old.primary.kill().await?,
            Loss::Stopped => old.primary.stop()?,
        }
        if old.replica.command(["REPLICAOF", "NO", "ONE"]).await? != Reply::Text("OK".to_owned()) {
            return Err(Error::unavailable("the replica cannot be promoted"));
        }
        self.front.lead_to(old.replica.address())?;
        let next = Nodes::behind(old.replica.clone()).await?;
        *self.nodes() = next;
        Ok(())
    }
}

fn play(title: &str) {
    if let Err(failure) = Suite::new("redis with a replica", Pair::start).play(title) {
        panic!("{failure}");
    }
}

#[test]
fn a_primary_is_lost() {
    play("failover::a_leader_is_lost");
}

#[test]
fn a_replica_without_the_lock_takes_over() {
    play("failover::a_replica_without_the_lock_takes_over");
}
