//! [`RedisCluster`]: several Redis servers that share the keys among them.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Error, Result};

use super::ports::{Port, free_port};
use super::redis::Redis;
use super::redis_setup::RedisSetup;
use super::waiting::{together, until};
use crate::remote::Loss;

/// How many slots a cluster has: each key lies in one of them.
const SLOTS: u32 = 16_384;

/// For how long a primary of a cluster takes no writes after its start, in microseconds of the wall clock; Redis has no
/// setting for it.
const WRITABLE_DELAY: i64 = 2_000_000;

/// Redis nodes that form a cluster: primaries, each with an equal part of the slots, and their replicas. Ends when it is
/// dropped.
#[derive(Debug)]
pub struct RedisCluster {
    setup: RedisSetup,
    nodes: Mutex<Vec<Node>>,
}

/// How a cluster is to be started.
#[derive(Clone, Debug)]
pub struct RedisClusterSetup {
    node: RedisSetup,
    primaries: u32,
    replicas: u32,
}

#[derive(Clone, Debug)]
struct Node {
    redis: Arc<Redis>,
    /// Where it talks to the others.
    bus: Arc<Port>,
    /// Nobody waits for it any more.
    lost: bool,
}

impl RedisCluster {
    /// A cluster of so many primaries, at least one, without replicas. Returns once all of them say that it is whole.
    ///
    /// # Errors
    /// A node does not start, or they do not agree in time.
    pub async fn start(primaries: u32) -> Result<RedisCluster> {
        RedisClusterSetup::new().primaries(primaries).start().await
    }

    /// Its nodes: the primaries in the order of their slots, then the replicas, then what came later. Those that are lost
    /// are among them.
    pub fn nodes(&self) -> Vec<Arc<Redis>> {
        self.all().iter().map(|node| Arc::clone(&node.redis)).collect()
    }

    /// The node that serves a key, as the nodes say.
    ///
    /// # Errors
    /// Nobody knows.
    pub async fn owner(&self, key: &str) -> Result<Arc<Redis>> {
        self.owner_of(self.slot(key).await?).await
    }

    /// Gives another replica to the node that serves a key; returns once it has everything and every node knows it.
    ///
    /// # Errors
    /// It does not start, or they do not agree in time.
    pub async fn add_replica(&self, key: &str) -> Result<Arc<Redis>> {
        let primary = self.owner(key).await?;
        let node = start_node(self.setup.clone()).await?;
        let replica = Arc::clone(&node.redis);
        let others: Vec<_> = self.all().iter().filter(|node| !node.lost).cloned().collect();
        for other in &others {
            node.meet(other).await?;
        }
        self.all().push(node);
        replica.becomes_replica_of(&primary).await?;
        self.knows_replica(&replica, &primary).await?;
        Ok(replica)
    }

    /// Waits until the replicas of the node that serves a key have everything so far, and cuts them off: what it
    /// acknowledges from now on never reaches them.
    ///
    /// # Errors
    /// It has no replica.
    pub async fn hold_back_replicas(&self, key: &str) -> Result<()> {
        self.owner(key).await?.hold_back_replicas().await
    }

    /// The node that serves a key is lost in this way. Returns once one of its replicas serves it and every node says so, and
    /// has a replica itself, so that it can be lost too. Takes three primaries: a majority of them has to be left. Returns
    /// the node that is lost.
    ///
    /// # Errors
    /// It has no replica, or none takes over in time.
    pub async fn lose_owner(&self, key: &str, how: Loss) -> Result<Arc<Redis>> {
        let lost = self.owner(key).await?;
        match how {
            Loss::Killed => lost.kill().await?,
            Loss::Stopped => lost.stop()?,
        }
        self.is_replaced(&lost, key).await?;
        Ok(lost)
    }

    /// The other nodes and the replicas cannot reach the node that serves a key any more, but clients can. It knows that
    /// it is alone, and refuses to serve, as Redis does where it does not see most of the primaries. Returns as
    /// [`lose_owner`](RedisCluster::lose_owner) does, with the node that is cut off.
    ///
    /// # Errors
    /// It has no replica, or none takes over in time.
    pub async fn isolate_owner(&self, key: &str) -> Result<Arc<Redis>> {
        let cut_off = self.owner(key).await?;
        cut_off.account_of_replicas()?.close(&cut_off).await?;
        // It no longer answers their pings, and no longer sends any of its own.
        cut_off.done(&["DEBUG", "DROP-CLUSTER-PACKET-FILTER", "0"]).await?;
        let nodes = cut_off.text(&["CLUSTER", "NODES"]).await?;
        for other in nodes.lines().filter(|line| !line.contains("myself")) {
            let id = other.split(' ').next().unwrap_or_default();
            cut_off.done(&["CLUSTER", "FORGET", id]).await?;
        }
        self.is_replaced(&cut_off, key).await?;
        Ok(cut_off)
    }

    async fn is_replaced(&self, lost: &Arc<Redis>, key: &str) -> Result<()> {
        let slot = self.slot(key).await?;
        for node in self.all().iter_mut().filter(|node| Arc::ptr_eq(&node.redis, lost)) {
            node.lost = true;
        }
        let what = format!("a replica takes over the slot of {key} from {}", lost.address());
        until(&what, async || {
            let owner = self.agreed_owner(slot).await?;
            let takes_over = owner.port() != lost.port() && self.is_healthy().await?;
            Ok((takes_over && owner.takes_writes(key).await?).then_some(()))
        })
        .await?;
        self.add_replica(key).await.map(drop)
    }

    pub(super) async fn slot(&self, key: &str) -> Result<u16> {
        self.first_answer(async |node| node.slot_of(key).await).await
    }

    pub(super) async fn owner_of(&self, slot: u16) -> Result<Arc<Redis>> {
        let port = self.first_answer(async |node| node.owner_of(slot).await).await?;
        self.at(port)
    }

    /// Of whichever living node has one: a test may have ended some behind the cluster's back.
    async fn first_answer<T, F>(&self, mut ask: impl FnMut(Arc<Redis>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut last = Error::unavailable("no node of the cluster is left");
        for node in self.living() {
            match ask(node).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The one whom every living node names.
    pub(super) async fn agreed_owner(&self, slot: u16) -> Result<Arc<Redis>> {
        let mut agreed = None;
        for node in self.living() {
            let port = node.owner_of(slot).await?;
            if *agreed.get_or_insert(port) != port {
                return Err(Error::unavailable(format!("the nodes do not agree on slot {slot}")));
            }
        }
        self.at(agreed.ok_or_else(|| Error::unavailable("no node of the cluster is left"))?)
    }

    /// Those that have not been lost.
    pub(super) fn living(&self) -> Vec<Arc<Redis>> {
        let all = self.all();
        all.iter().filter(|node| !node.lost).map(|node| Arc::clone(&node.redis)).collect()
    }

    /// Waits until every living node says that all slots are served.
    ///
    /// # Errors
    /// They do not within twenty seconds.
    pub async fn is_whole(&self) -> Result<()> {
        until("every node says that the cluster is whole", async || {
            Ok(self.is_healthy().await?.then_some(()))
        })
        .await
    }

    /// Whether all nodes know of the same latest change.
    pub(super) async fn has_one_epoch(&self) -> Result<bool> {
        let mut epochs = std::collections::BTreeSet::new();
        for node in self.living() {
            let info = node.text(&["CLUSTER", "INFO"]).await?;
            epochs.insert(
                info.lines().find(|line| line.starts_with("cluster_current_epoch")).map(str::to_owned),
            );
        }
        Ok(epochs.len() == 1)
    }

    async fn is_healthy(&self) -> Result<bool> {
        for node in self.living() {
            if !node.text(&["CLUSTER", "INFO"]).await?.contains("cluster_state:ok") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn knows_replica(&self, replica: &Redis, primary: &Redis) -> Result<()> {
        replica.is_in_step().await?;
        let (id, primary_id) = (replica.cluster_id().await?, primary.cluster_id().await?);
        let what = format!("every node knows {} as a replica of {}", replica.address(), primary.address());
        for node in self.living() {
            until(&what, async || {
                let nodes = node.text(&["CLUSTER", "NODES"]).await?;
                let known = nodes.lines().any(|line| line.starts_with(&id) && line.contains(&primary_id));
                Ok(known.then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    pub(super) fn at(&self, port: u16) -> Result<Arc<Redis>> {
        let found = self.all().iter().find(|node| node.redis.port() == port).cloned();
        let unknown = || Error::unavailable(format!("no node of the cluster has port {port}"));
        Ok(found.ok_or_else(unknown)?.redis)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisClusterSetup {
    /// Three primaries, no replicas, and nothing else asked of the nodes.
    pub fn new() -> RedisClusterSetup {
        RedisClusterSetup { node: RedisSetup::new(), primaries: 3, replicas: 0 }
    }

    /// How each node is to be started.
    #[must_use]
    pub fn nodes(mut self, setup: RedisSetup) -> RedisClusterSetup {
        self.node = setup;
        self
    }

    /// How many primaries, at least one.
    #[must_use]
    pub fn primaries(mut self, primaries: u32) -> RedisClusterSetup {
        self.primaries = primaries.max(1);
        self
    }

    /// How many replicas each of them has.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> RedisClusterSetup {
        self.replicas = replicas;
        self
    }

    /// Starts a cluster. Returns once all nodes say that it is whole, and every replica follows its primary. That takes two
    /// seconds, or a fraction of one where the nodes have a [`WallClock`](super::WallClock).
    ///
    /// # Errors
    /// A node does not start, or they do not agree in time.
    pub async fn start(self) -> Result<RedisCluster> {
        let mut setup = self.node.replicated();
        // Of those on this machine: how a node is cut off from the others.
        setup.lines += "enable-debug-command local\n";
        let setup = setup.arguments(
            [
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", "1000"],
                // One that was held back takes over all the same.
                ["--cluster-replica-validity-factor", "0"],
                // A replica stays with its primary.
                ["--cluster-allow-replica-migration", "no"],
            ]
            .concat(),
        );
        let count = self.primaries * (1 + self.replicas);
        // Behind at first, and right from when they know each other: then they have not to wait.
        if let Some(wall) = &setup.wall_clock {
            wall.step(-WRITABLE_DELAY)?;
        }
        let nodes = together((0..count).map(|_| start_node(setup.clone()))).await?;
        let cluster = RedisCluster { setup, nodes: Mutex::new(nodes) };
        cluster.share_slots(self.primaries).await?;
        cluster.introduce().await?;
        if let Some(wall) = &cluster.setup.wall_clock {
            wall.step(WRITABLE_DELAY)?;
        }
        let (nodes, primaries) = (cluster.nodes(), self.primaries as usize);
        let pairs = || nodes.iter().skip(primaries).zip(nodes.iter().take(primaries).cycle());
        for (replica, primary) in pairs() {
            replica.becomes_replica_of(primary).await?;
        }
        for (replica, primary) in pairs() {
            cluster.knows_replica(replica, primary).await?;
        }
        cluster.is_whole().await?;
        Ok(cluster)
    }
}

impl Default for RedisClusterSetup {
    fn default() -> RedisClusterSetup {
        RedisClusterSetup::new()
    }
}

impl RedisCluster {
    /// Every node has an epoch of its own from the start: otherwise they find out one after the other that they have the
    /// same.
    async fn share_slots(&self, primaries: u32) -> Result<()> {
        for (node, number) in self.nodes().iter().zip(0_u32..) {
            node.done(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await?;
            if number < primaries {
                let (first, last) = (SLOTS * number / primaries, SLOTS * (number + 1) / primaries - 1);
                node.done(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
            }
        }
        Ok(())
    }

    async fn introduce(&self) -> Result<()> {
        let nodes = self.all().clone();
        for (number, node) in nodes.iter().enumerate() {
            for other in &nodes[..number] {
                node.meet(other).await?;
            }
        }
        let what = "the nodes of the cluster know each other";
        until(what, async || Ok(self.know_each_other().await?.then_some(()))).await
    }

    async fn know_each_other(&self) -> Result<bool> {
        let nodes = self.nodes();
        for node in &nodes {
            let known = node.text(&["CLUSTER", "NODES"]).await?;
            if known.lines().count() != nodes.len() || known.contains("handshake") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn start_node(setup: RedisSetup) -> Result<Node> {
    let bus = free_port()?;
    let setup = setup.arguments(["--cluster-port", &bus.number().to_string()]);
    Ok(Node { redis: Arc::new(setup.start().await?), bus: Arc::new(bus), lost: false })
}

impl Node {
    async fn meet(&self, other: &Node) -> Result<()> {
        let at = other.redis.endpoint();
        let (ip, port, bus) = (at.ip().to_string(), at.port().to_string(), other.bus.number().to_string());
        self.redis.done(&["CLUSTER", "MEET", &ip, &port, &bus]).await
    }
}
