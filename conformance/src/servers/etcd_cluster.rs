//! [`EtcdCluster`]: several etcd servers that agree on everything they acknowledge.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::account::secret;
use super::cluster::{Cluster, Node};
use super::etcd::Etcd;
use super::etcd_setup::{EtcdSetup, Place};
use super::peer_network::PeerNetwork;
use super::ports::{Port, free_port, on_free_ports};
use super::waiting::{together, until};

/// Etcd members that form a cluster. Ends when it is dropped.
///
/// What every member knows, as an account, is asked of any. A leader that is cut off notices it after an election timeout or two.
pub type EtcdCluster = Cluster<Etcd>;

/// How a cluster is to be started.
#[derive(Clone, Debug)]
pub struct EtcdClusterSetup {
    member: EtcdSetup,
    members: usize,
}

impl EtcdCluster {
    /// A cluster of three, without accounts. Returns once each of them takes writes.
    ///
    /// # Errors
    /// A member does not start, or they do not agree in time.
    pub async fn start() -> Result<EtcdCluster> {
        EtcdClusterSetup::new().start().await
    }

    /// Ends all members in an orderly way, and waits until they are gone.
    pub async fn shut_down(&self) -> Result<()> {
        self.each(async |etcd| etcd.shut_down().await).await
    }

    /// Starts all members again after their end, at the same ports, without any data; with the root account, if they had one.
    pub async fn start_again_empty(&self) -> Result<()> {
        self.members().iter().try_for_each(|etcd| etcd.forget())?;
        begin(self.network(), &self.members()).await?;
        self.secure().await
    }

    /// Writes until there is no more room, as [`Etcd::fill`] does.
    pub async fn fill(&self) -> Result<()> {
        self.leader().await?.fill().await
    }

    /// Removes what it was filled with, defragments each member, and ends the alarms.
    pub async fn make_room(&self) -> Result<()> {
        let leader = self.leader().await?;
        leader.forget_filling().await?;
        for etcd in self.present() {
            etcd.defragment().await?;
        }
        leader.disarm().await
    }

    async fn secure(&self) -> Result<()> {
        if let Some(first) = self.members().first() {
            first.secure().await?;
        }
        self.is_led().await
    }
}

#[async_trait]
impl Node for Etcd {
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

    async fn is_started_again(&self) -> Result<()> {
        self.start_again().await
    }

    fn is_disconnected(&self) -> Result<usize> {
        self.disconnect()
    }

    async fn agreed_leader(present: &[Arc<Etcd>]) -> Result<Arc<Etcd>> {
        let said = together(present.iter().map(Arc::clone).map(async |etcd| etcd.status().await)).await?;
        let first = said.first().ok_or_else(|| Error::unavailable("no member is left"))?;
        if !said.iter().all(|status| (status.leader, status.term) == (first.leader, first.term)) {
            return Err(Error::unavailable("the members do not agree on a leader"));
        }
        let leader = present.iter().zip(&said).find(|(_, status)| status.member == first.leader);
        let leader = leader.map(|(etcd, _)| Arc::clone(etcd));
        leader.ok_or_else(|| Error::unavailable("the members follow nobody who is left"))
    }

    async fn serves(&self) -> Result<()> {
        self.takes_writes().await
    }
}

impl EtcdClusterSetup {
    /// Three members, and nothing else asked of them.
    pub fn new() -> EtcdClusterSetup {
        EtcdClusterSetup { member: EtcdSetup::new(), members: 3 }
    }

    /// How each member is to be started. None can be on an island.
    #[must_use]
    pub fn each(mut self, setup: EtcdSetup) -> EtcdClusterSetup {
        self.member = setup;
        self
    }

    /// How many members, at least one. Three survive the loss of one, five that of two.
    #[must_use]
    pub fn members(mut self, members: usize) -> EtcdClusterSetup {
        self.members = members.max(1);
        self
    }

    /// Starts a cluster. Returns once all members agree on a leader, and each takes writes.
    ///
    /// # Errors
    /// A member does not start, or they do not agree in time.
    pub async fn start(self) -> Result<EtcdCluster> {
        if self.member.island.is_some() {
            return Err(Error::invalid("members on an island do not reach each other: isolate one instead"));
        }
        on_free_ports(async || self.attempt().await).await
    }

    async fn attempt(&self) -> Result<EtcdCluster> {
        let ports = (0..self.members).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let network = PeerNetwork::between(ports.iter().map(|port| vec![port.number()]).collect()).await?;
        let url = |number, port: &Port| format!("http://{}", PeerNetwork::address(number, port.number()));
        let names =
            ports.iter().enumerate().map(|(number, port)| format!("member{number}={}", url(number, port)));
        let (names, token) = (names.collect::<Vec<_>>().join(","), secret());
        let prepared = ports.into_iter().enumerate().map(|(number, peer)| {
            let mut setup = self.member.clone();
            setup.place = Some(Place {
                name: format!("member{number}"),
                advertised: url(number, &peer),
                network: network.door(number).map(|door| format!("socks5://{door}")).unwrap_or_default(),
                members: names.clone(),
                token: token.clone(),
            });
            Etcd::prepared(setup, free_port()?, peer)
        });
        let members = prepared.map(|etcd| etcd.map(Arc::new)).collect::<Result<Vec<_>>>()?;
        begin(&network, &members).await?;
        let cluster = Cluster::new(members, network);
        cluster.secure().await?;
        Ok(cluster)
    }
}

impl Default for EtcdClusterSetup {
    fn default() -> EtcdClusterSetup {
        EtcdClusterSetup::new()
    }
}

/// Starts members without data. Such a one asks the others first whether they know it already, and waits for a whole second
/// for each that listens but does not serve yet, as all of them do: so nobody is reached until all have asked.
async fn begin(network: &PeerNetwork, members: &[Arc<Etcd>]) -> Result<()> {
    network.refuse(true);
    let asked = async || Ok(members.iter().all(|etcd| etcd.has_begun()).then_some(()));
    let admitted = async {
        until("each member has begun", asked).await?;
        network.refuse(false);
        Ok(())
    };
    let launched = members.iter().map(Arc::clone).map(async |etcd| etcd.launch().await);
    let outcome = tokio::try_join!(together(launched), admitted);
    network.refuse(false);
    outcome.map(drop)
}
