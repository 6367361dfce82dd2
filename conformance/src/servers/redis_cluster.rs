//! [`RedisCluster`]: several Redis servers that share the keys among them.

use std::time::Duration;

use lock_core::{Clock, Error, Result, SystemClock};

use super::ports::{Port, free_port};
use super::redis::Redis;
use super::redis_setup::RedisSetup;
use super::resp::Reply;

/// How many slots a cluster has: each key lies in one of them.
const SLOTS: u32 = 16_384;

/// For how long the nodes may take to agree.
const PATIENCE: Duration = Duration::from_secs(20);

/// Redis nodes that form a cluster: every one is a primary, and each has an equal part of the slots. Ends when it is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    /// Where they talk among themselves.
    buses: Vec<Port>,
}

impl RedisCluster {
    /// A cluster of so many primaries, at least one. Returns once all of them say that it is whole.
    ///
    /// # Errors
    /// A node does not start, or they do not agree in time.
    pub async fn start(primaries: u32) -> Result<RedisCluster> {
        let mut cluster = RedisCluster { nodes: Vec::new(), buses: Vec::new() };
        for _ in 0..primaries.max(1) {
            let bus = free_port()?;
            let setup = RedisSetup::new()
                .arguments(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])
                .arguments(["--cluster-port", &bus.number().to_string()]);
            cluster.nodes.push(setup.start().await?);
            cluster.buses.push(bus);
        }
        cluster.share_slots().await?;
        cluster.introduce().await?;
        cluster.is_whole().await?;
        Ok(cluster)
    }

    /// Its nodes, in the order of their slots.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    async fn share_slots(&self) -> Result<()> {
        let count = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        for (node, number) in self.nodes.iter().zip(0_u32..) {
            let (first, last) = (SLOTS * number / count, SLOTS * (number + 1) / count - 1);
            node.done(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
        }
        Ok(())
    }

    /// Who has met one of them hears of the others.
    async fn introduce(&self) -> Result<()> {
        let Some(first) = self.nodes.first() else { return Ok(()) };
        for (other, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (other.port().to_string(), bus.number().to_string());
            first.done(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        Ok(())
    }

    async fn is_whole(&self) -> Result<()> {
        let clock = SystemClock::new();
        let end = clock.boot() + PATIENCE;
        for node in &self.nodes {
            loop {
                let whole = match node.command(["CLUSTER", "INFO"]).await? {
                    Reply::Text(info) => {
                        let known = format!("cluster_known_nodes:{}", self.nodes.len());
                        info.contains("cluster_state:ok") && info.contains(&known)
                    }
                    _ => false,
                };
                if whole {
                    break;
                }
                if clock.boot() >= end {
                    return Err(
                        Error::unavailable("the nodes do not agree on their cluster").at(node.address())
                    );
                }
                clock.sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }
}
