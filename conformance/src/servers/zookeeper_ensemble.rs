//! [`ZooKeeperEnsemble`]: several ZooKeeper servers that agree on everything they acknowledge.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::members::{Members, Node};
use super::peer_network::PeerNetwork;
use super::ports::{Port, free_port};
use super::waiting::{together, until};
use super::zookeeper::ZooKeeper;
use super::zookeeper_setup::{ATTEMPTS, Place, ZooKeeperSetup, is_taken};
use crate::remote::Loss;

/// ZooKeeper servers that form an ensemble, one of which leads. Ends when it is dropped.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    members: Members<ZooKeeper>,
    /// Where they hear each other: theirs until they have ended.
    _peers: Vec<[Port; 2]>,
}

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

    /// Its members, those that are lost too.
    pub fn members(&self) -> Vec<Arc<ZooKeeper>> {
        self.members.all()
    }

    /// The addresses of all members for clients, as in a URL: `127.0.0.1:PORT,127.0.0.1:PORT,…`.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<_> = self.members().iter().map(|member| member.address()).collect();
        addresses.join(",")
    }

    /// The member that leads and that the others follow who are not lost. Waits until it is so.
    ///
    /// # Errors
    /// They do not agree within twenty seconds.
    pub async fn leader(&self) -> Result<Arc<ZooKeeper>> {
        until("the members follow a leader", async || self.agreed_leader().await.map(Some)).await
    }

    /// A member that is not lost, and does not lead.
    ///
    /// # Errors
    /// There is none, or the others do not agree within twenty seconds.
    pub async fn follower(&self) -> Result<Arc<ZooKeeper>> {
        let leader = self.leader().await?;
        let follower = self.present().find(|member| !Arc::ptr_eq(member, &leader));
        follower.ok_or_else(|| Error::invalid("the leader is the only member left"))
    }

    /// The leader is lost in this way. Returns it once another one leads, and each member that is left serves.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn lose_leader(&self, how: Loss) -> Result<Arc<ZooKeeper>> {
        let leader = self.leader().await?;
        self.lose(&leader, how).await?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member is lost in this way, whoever it is. Returns at once: [`is_led`](ZooKeeperEnsemble::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub async fn lose(&self, member: &ZooKeeper, how: Loss) -> Result<()> {
        self.members.lose(member, how).await
    }

    /// The leader and the other members cannot reach each other any more, but clients reach all of them. It goes on as leader
    /// until it notices, which takes some ticks. Returns it once another one leads, and each of the others serves.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn isolate_leader(&self) -> Result<Arc<ZooKeeper>> {
        let leader = self.leader().await?;
        self.isolate(&leader)?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member and the others cannot reach each other any more, but clients reach all of them. Returns at once:
    /// [`is_led`](ZooKeeperEnsemble::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub fn isolate(&self, member: &ZooKeeper) -> Result<()> {
        self.members.isolate(member)
    }

    /// Brings back all members that are lost or isolated. Returns once all follow a leader.
    ///
    /// # Errors
    /// One does not start, or they do not agree within twenty seconds.
    pub async fn heal(&self) -> Result<()> {
        self.members.heal().await?;
        self.is_led().await
    }

    /// Waits until all members follow a leader, but for those that are lost.
    ///
    /// # Errors
    /// They do not within twenty seconds.
    pub async fn is_led(&self) -> Result<()> {
        self.leader().await.map(drop)
    }

    /// Kills all members as `kill -9` does, and waits until they are gone.
    pub async fn kill(&self) -> Result<()> {
        self.members.each(async |member| member.kill().await).await
    }

    /// Starts all members again after their end, at the same ports, with what they have written.
    pub async fn start_again(&self) -> Result<()> {
        self.members.each(async |member| member.start_again().await).await?;
        self.is_led().await
    }

    /// Starts all members again after their end, at the same ports, without any data.
    pub async fn start_again_empty(&self) -> Result<()> {
        self.members().iter().try_for_each(|member| member.forget())?;
        self.members.each(async |member| member.launch().await).await?;
        self.is_led().await
    }

    /// Stops all members as `kill -STOP` does: their connections stay open, and nobody answers.
    pub async fn stop(&self) -> Result<()> {
        self.members.each(async |member| member.stop().await).await
    }

    /// Lets all members go on.
    pub fn go_on(&self) -> Result<()> {
        self.members.go_on()
    }

    /// Ends the connections of all clients, as [`ZooKeeper::disconnect`] does, and returns how many those were.
    pub fn disconnect(&self) -> Result<usize> {
        self.present().map(|member| member.disconnect()).sum()
    }

    /// How many descriptors of this process are for what its members say to each other. It changes with how much that is.
    pub fn descriptors(&self) -> usize {
        self.members.network().descriptors()
    }

    /// Who is cut off may still believe that it leads.
    async fn agreed_leader(&self) -> Result<Arc<ZooKeeper>> {
        let present: Vec<_> = self.present().collect();
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

    /// Those that have not been lost.
    fn present(&self) -> impl Iterator<Item = Arc<ZooKeeper>> {
        self.members.present().map(|(_, member)| Arc::clone(member))
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
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            match self.attempt().await {
                Err(error) if attempts > 0 && is_taken(&error) => {}
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self) -> Result<ZooKeeperEnsemble> {
        let peers =
            (0..self.members).map(|_| Ok([free_port()?, free_port()?])).collect::<Result<Vec<_>>>()?;
        let ports: Vec<_> = peers.iter().map(|ports| ports.each_ref().map(Port::number)).collect();
        let network = PeerNetwork::between(ports.iter().map(|ports| ports.to_vec()).collect()).await?;
        let members: Vec<_> =
            ports.iter().enumerate().map(|(number, ports)| member(number, *ports)).collect();
        let prepared = (0..self.members).map(|number| {
            let door = network.door(number).ok_or_else(|| Error::unavailable("no way to the others"))?;
            let mut setup = self.member.clone();
            setup.place = Some(Place { number, members: members.clone(), door });
            ZooKeeper::prepared(setup, free_port()?).map(Arc::new)
        });
        let nodes = prepared.collect::<Result<Vec<_>>>()?;
        let ensemble = ZooKeeperEnsemble { members: Members::new(nodes, network), _peers: peers };
        ensemble.members.each(async |member| member.launch().await).await?;
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

#[async_trait]
impl Node for ZooKeeper {
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
}
