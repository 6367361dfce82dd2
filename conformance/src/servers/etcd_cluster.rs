//! [`EtcdCluster`]: several etcd servers that agree on everything they acknowledge.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::account::secret;
use super::etcd::Etcd;
use super::etcd_setup::{ATTEMPTS, EtcdSetup, Place, is_taken};
use super::members::{Members, Node};
use super::peer_network::PeerNetwork;
use super::ports::{Port, free_port};
use super::waiting::{together, until};
use crate::remote::Loss;

/// Etcd members that form a cluster, one of which leads. Ends when it is dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Members<Etcd>,
    /// As they are known to each other.
    ids: Vec<u64>,
}

/// How a cluster is to be started.
#[derive(Clone, Debug)]
pub struct EtcdClusterSetup {
    member: EtcdSetup,
    members: usize,
}

#[async_trait]
impl Node for Etcd {
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
}

impl EtcdCluster {
    /// A cluster of three, without accounts. Returns once each of them takes writes.
    ///
    /// # Errors
    /// A member does not start, or they do not agree in time.
    pub async fn start() -> Result<EtcdCluster> {
        EtcdClusterSetup::new().start().await
    }

    /// Its members, those that are lost too. What every member knows, as an account, is asked of any.
    pub fn members(&self) -> Vec<Arc<Etcd>> {
        self.members.all()
    }

    /// The addresses of all members for clients, as in a URL: `127.0.0.1:PORT,127.0.0.1:PORT,…`.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<_> = self.members().iter().map(|etcd| etcd.address()).collect();
        addresses.join(",")
    }

    /// The member that leads, as all say who are not lost. Waits until they do.
    ///
    /// # Errors
    /// They do not agree within twenty seconds.
    pub async fn leader(&self) -> Result<Arc<Etcd>> {
        until("the members agree on a leader", async || self.agreed_leader().await.map(Some)).await
    }

    /// A member that is not lost, and does not lead.
    ///
    /// # Errors
    /// There is none, or the others do not agree within twenty seconds.
    pub async fn follower(&self) -> Result<Arc<Etcd>> {
        let leader = self.leader().await?;
        let follower = self.present().find(|etcd| !Arc::ptr_eq(etcd, &leader));
        follower.ok_or_else(|| Error::invalid("the leader is the only member left"))
    }

    /// The leader is lost in this way. Returns it once another one leads, and each member that is left takes writes.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn lose_leader(&self, how: Loss) -> Result<Arc<Etcd>> {
        let leader = self.leader().await?;
        self.lose(&leader, how).await?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member is lost in this way, whoever it is. Returns at once: [`is_led`](EtcdCluster::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub async fn lose(&self, member: &Etcd, how: Loss) -> Result<()> {
        self.members.lose(member, how).await
    }

    /// The leader and the other members cannot reach each other any more, but clients reach all of them. It goes on as leader
    /// until it notices, which takes an election timeout or two. Returns it once another one leads, and each of the others
    /// takes writes.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn isolate_leader(&self) -> Result<Arc<Etcd>> {
        let leader = self.leader().await?;
        self.isolate(&leader)?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member and the others cannot reach each other any more, but clients reach all of them. Returns at once:
    /// [`is_led`](EtcdCluster::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub fn isolate(&self, member: &Etcd) -> Result<()> {
        self.members.isolate(member)
    }

    /// Brings back all members that are lost or isolated. Returns once all agree on a leader, and each takes writes.
    ///
    /// # Errors
    /// One does not start, or they do not agree within twenty seconds.
    pub async fn heal(&self) -> Result<()> {
        self.members.heal().await?;
        self.is_led().await
    }

    /// Waits until all members agree on a leader and each takes writes, but for those that are lost.
    ///
    /// # Errors
    /// They do not within twenty seconds.
    pub async fn is_led(&self) -> Result<()> {
        until("each member takes writes", async || {
            self.agreed_leader().await?;
            for etcd in self.present() {
                etcd.takes_writes().await?;
            }
            Ok(Some(()))
        })
        .await
    }

    /// Kills all members as `kill -9` does, and waits until they are gone.
    pub async fn kill(&self) -> Result<()> {
        self.members.each(async |etcd| etcd.kill().await).await
    }

    /// Ends all members in an orderly way, and waits until they are gone.
    pub async fn shut_down(&self) -> Result<()> {
        self.members.each(async |etcd| etcd.shut_down().await).await
    }

    /// Starts all members again after their end, at the same ports, with what they have written.
    pub async fn start_again(&self) -> Result<()> {
        self.members.each(async |etcd| etcd.start_again().await).await?;
        self.is_led().await
    }

    /// Starts all members again after their end, at the same ports, without any data; with the root account, if they had one.
    pub async fn start_again_empty(&self) -> Result<()> {
        self.members().iter().try_for_each(|etcd| etcd.forget())?;
        begin(self.members.network(), &self.members()).await?;
        self.secure().await
    }

    /// Stops all members as `kill -STOP` does: their connections stay open, and nobody answers.
    pub async fn stop(&self) -> Result<()> {
        self.members.each(async |etcd| etcd.stop().await).await
    }

    /// Lets all members go on.
    pub fn go_on(&self) -> Result<()> {
        self.members.go_on()
    }

    /// Ends the connections of all clients, as [`Etcd::disconnect`] does, and returns how many those were.
    pub fn disconnect(&self) -> Result<usize> {
        self.present().map(|etcd| etcd.disconnect()).sum()
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

    /// How many descriptors of this process are for what its members say to each other. It changes with how much that is.
    pub fn descriptors(&self) -> usize {
        self.members.network().descriptors()
    }

    async fn agreed_leader(&self) -> Result<Arc<Etcd>> {
        let asked = self.present().map(async |etcd| etcd.status().await);
        let mut answers = together(asked).await?.into_iter().map(|status| (status.leader, status.term));
        let first = answers.next().ok_or_else(|| Error::unavailable("no member is left"))?;
        if !answers.all(|answer| answer == first) {
            return Err(Error::unavailable("the members do not agree on a leader"));
        }
        let leader = self.members.present().find(|(number, _)| self.ids.get(*number) == Some(&first.0));
        let leader = leader.map(|(_, etcd)| Arc::clone(etcd));
        leader.ok_or_else(|| Error::unavailable("the members follow nobody who is left"))
    }

    /// Those that have not been lost.
    fn present(&self) -> impl Iterator<Item = Arc<Etcd>> {
        self.members.present().map(|(_, etcd)| Arc::clone(etcd))
    }

    async fn secure(&self) -> Result<()> {
        if let Some(first) = self.members().first() {
            first.secure().await?;
        }
        self.is_led().await
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
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            match self.attempt().await {
                Err(error) if attempts > 0 && is_taken(&error) => {}
                outcome => return outcome,
            }
        }
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
        let ids = members.iter().map(Arc::clone).map(async |etcd| Ok(etcd.status().await?.member));
        let ids = together(ids).await?;
        let cluster = EtcdCluster { members: Members::new(members, network), ids };
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
