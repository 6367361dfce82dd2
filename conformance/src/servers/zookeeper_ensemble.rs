//! [`ZooKeeperEnsemble`]: several ZooKeeper servers that agree on everything they acknowledge.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::cluster::{Cluster, Node};
use super::peer_network::PeerNetwork;
use super::ports::{Port, free_port, on_free_ports};
use super::waiting::together;
use super::zookeeper::ZooKeeper;
use super::zookeeper_setup::{Place, ZooKeeperSetup};

/// ZooKeeper servers that form an ensemble. Ends when it is dropped.
///
/// A leader that is cut off notices it after some ticks.
pub type ZooKeeperEnsemble = Cluster<ZooKeeper>;

/// How an ensemble is to be started.
#[derive(Clone, Debug)]
pub struct ZooKeeperEnsembleSetup {
    member: ZooKeeperSetup,
    members: usize,
}

impl ZooKeeperEnsemble {
    /// An ensemble of three. Returns once each of them serves.
    ///
    /// # Errors
    /// A member does not start, or they do not agree in time.
    pub async fn start() -> Result<ZooKeeperEnsemble> {
        ZooKeeperEnsembleSetup::new().start().await
    }

    /// Starts all members again after their end, at the same ports, without any data.
    pub async fn start_again_empty(&self) -> Result<()> {
        self.members().iter().try_for_each(|member| member.forget())?;
        self.each(async |member| member.launch().await).await?;
        self.is_led().await
    }
}

#[async_trait]
impl Node for ZooKeeper {
    fn its_address(&self) -> String {
        self.address()
    }

    async fn is_killed(&self) -> Result<()> {
        self.kill().await
    }

    async fn is_stopped(&self) -> Result<()> {
        self.stop().await
    }

    fn goes_on(&self) -> Result<()> {
        self.go_on()
    }

    /// The others wait for it: it serves once it has joined them.
    async fn is_started_again(&self) -> Result<()> {
        self.start_again().await
    }

    fn is_disconnected(&self) -> Result<usize> {
        self.disconnect()
    }

    /// Who is cut off may still believe that it leads.
    async fn agreed_leader(present: &[Arc<ZooKeeper>]) -> Result<Arc<ZooKeeper>> {
        let modes = together(present.iter().map(Arc::clone).map(async |member| member.mode().await)).await?;
        let leaders: Vec<_> = present.iter().zip(&modes).filter(|(_, mode)| *mode == "leader").collect();
        let [(leader, _)] = leaders[..] else {
            return Err(Error::unavailable(format!("the members follow nobody: {modes:?}")));
        };
        let followers = leader.number("zk_synced_followers").await?;
        if u64::try_from(present.len()).is_ok_and(|members| followers + 1 < members) {
            return Err(Error::unavailable(format!("only {followers} have what the leader has")));
        }
        Ok(Arc::clone(leader))
    }

    /// Whoever follows does.
    async fn serves(&self) -> Result<()> {
        Ok(())
    }
}

impl ZooKeeperEnsembleSetup {
    /// Three members, and nothing else asked of them.
    pub fn new() -> ZooKeeperEnsembleSetup {
        ZooKeeperEnsembleSetup { member: ZooKeeperSetup::new(), members: 3 }
    }

    /// How each member is to be started. None can be on an island.
    #[must_use]
    pub fn each(mut self, setup: ZooKeeperSetup) -> ZooKeeperEnsembleSetup {
        self.member = setup;
        self
    }

    /// How many members, at least one. Three survive the loss of one, five that of two.
    #[must_use]
    pub fn members(mut self, members: usize) -> ZooKeeperEnsembleSetup {
        self.members = members.max(1);
        self
    }

    /// Starts an ensemble. Returns once all members follow a leader.
    ///
    /// # Errors
    /// A member does not start, or they do not agree in time.
    pub async fn start(self) -> Result<ZooKeeperEnsemble> {
        if self.member.island.is_some() {
            return Err(Error::invalid("members on an island do not reach each other: isolate one instead"));
        }
        on_free_ports(async || self.attempt().await).await
    }

    async fn attempt(&self) -> Result<ZooKeeperEnsemble> {
        let peers =
            (0..self.members).map(|_| Ok([free_port()?, free_port()?])).collect::<Result<Vec<_>>>()?;
        let ports: Vec<_> = peers.iter().map(|ports| ports.each_ref().map(Port::number)).collect();
        let network = PeerNetwork::between(ports.iter().map(|ports| ports.to_vec()).collect()).await?;
        let members: Vec<_> =
            ports.iter().enumerate().map(|(number, ports)| member(number, *ports)).collect();
        let prepared = peers.into_iter().enumerate().map(|(number, peers)| {
            let door = network.door(number).ok_or_else(|| Error::unavailable("no way to the others"))?;
            let mut setup = self.member.clone();
            setup.place = Some(Place { number, members: members.clone(), door });
            ZooKeeper::prepared(setup, free_port()?, Some(peers)).map(Arc::new)
        });
        let nodes = prepared.collect::<Result<Vec<_>>>()?;
        let ensemble = Cluster::new(nodes, network);
        ensemble.each(async |member| member.launch().await).await?;
        ensemble.is_led().await?;
        Ok(ensemble)
    }
}

/// What the configuration says of a member.
fn member(number: usize, [quorum, election]: [u16; 2]) -> String {
    let (host, number) = (*PeerNetwork::address(number, quorum).ip(), number + 1);
    format!("server.{number}={host}:{quorum}:{election}")
}

impl Default for ZooKeeperEnsembleSetup {
    fn default() -> ZooKeeperEnsembleSetup {
        ZooKeeperEnsembleSetup::new()
    }
}
