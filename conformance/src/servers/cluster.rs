//! [`Cluster`]: several servers that agree on everything they acknowledge, which of them are lost or cut off, and how they come back.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::peer_network::PeerNetwork;
use super::waiting::{together, until};
use crate::remote::Loss;

/// A server that may be a member of a [`Cluster`].
#[async_trait]
pub trait Node: Sized + Send + Sync + 'static {
    /// Its address for clients.
    fn its_address(&self) -> String;
    /// Kills it as `kill -9` does, and waits until it is gone.
    async fn is_killed(&self) -> Result<()>;
    /// Stops it as `kill -STOP` does, and waits until it stands still.
    async fn is_stopped(&self) -> Result<()>;
    /// Lets it go on.
    fn goes_on(&self) -> Result<()>;
    /// Starts it again after its end, with what it has written.
    async fn is_started_again(&self) -> Result<()>;
    /// Ends the connections of its clients, and returns how many those were.
    fn is_disconnected(&self) -> Result<usize>;

    /// Which of these leads, as all of them say now.
    ///
    /// # Errors
    /// They do not agree, or do not say.
    async fn agreed_leader(present: &[Arc<Self>]) -> Result<Arc<Self>>;

    /// Makes sure that whatever is behind a leader serves.
    ///
    /// # Errors
    /// It does not yet.
    async fn serves(&self) -> Result<()>;
}

/// Servers that agree on everything they acknowledge, one of which leads. Ends when it is dropped.
#[derive(Debug)]
pub struct Cluster<N> {
    members: Vec<Member<N>>,
    network: PeerNetwork,
}

#[derive(Debug)]
struct Member<N> {
    node: Arc<N>,
    away: Mutex<Option<Away>>,
}

/// Why nobody waits for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Lost(Loss),
    CutOff,
}

impl<N: Node> Cluster<N> {
    pub(super) fn new(nodes: Vec<Arc<N>>, network: PeerNetwork) -> Cluster<N> {
        let members = nodes.into_iter().map(|node| Member { node, away: Mutex::new(None) }).collect();
        Cluster { members, network }
    }

    /// Its members, those that are lost too.
    pub fn members(&self) -> Vec<Arc<N>> {
        self.members.iter().map(|member| Arc::clone(&member.node)).collect()
    }

    /// The addresses of all members for clients, as in a URL: `127.0.0.1:PORT,127.0.0.1:PORT,…`.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<_> = self.members.iter().map(|member| member.node.its_address()).collect();
        addresses.join(",")
    }

    /// The member that leads, as all say who are not lost. Waits until they do.
    ///
    /// # Errors
    /// They do not agree within twenty seconds.
    pub async fn leader(&self) -> Result<Arc<N>> {
        let agreed = async || N::agreed_leader(&self.present()).await.map(Some);
        until("the members agree on a leader", agreed).await
    }

    /// A member that is not lost, and does not lead.
    ///
    /// # Errors
    /// There is none, or the others do not agree within twenty seconds.
    pub async fn follower(&self) -> Result<Arc<N>> {
        let leader = self.leader().await?;
        let follower = self.present().into_iter().find(|member| !Arc::ptr_eq(member, &leader));
        follower.ok_or_else(|| Error::invalid("the leader is the only member left"))
    }

    /// Waits until all members agree on a leader and each serves, but for those that are lost.
    ///
    /// # Errors
    /// They do not within twenty seconds.
    pub async fn is_led(&self) -> Result<()> {
        let led = async || {
            let present = self.present();
            N::agreed_leader(&present).await?;
            for member in present {
                member.serves().await?;
            }
            Ok(Some(()))
        };
        until("each member serves behind a leader", led).await
    }

    /// The leader is lost in this way. Returns it once another one leads, and each member that is left serves.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn lose_leader(&self, how: Loss) -> Result<Arc<N>> {
        let leader = self.leader().await?;
        self.lose(&leader, how).await?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member is lost in this way, whoever it is. Returns at once: [`is_led`](Cluster::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub async fn lose(&self, member: &N, how: Loss) -> Result<()> {
        self.part(member, Away::Lost(how))?;
        match how {
            Loss::Killed => member.is_killed().await,
            Loss::Stopped => member.is_stopped().await,
        }
    }

    /// The leader and the other members cannot reach each other any more, but clients reach all of them. It goes on as leader
    /// until it notices. Returns it once another one leads, and each of the others serves.
    ///
    /// # Errors
    /// Less than a majority would be left, or none of them takes over within twenty seconds.
    pub async fn isolate_leader(&self) -> Result<Arc<N>> {
        let leader = self.leader().await?;
        self.isolate(&leader)?;
        self.is_led().await?;
        Ok(leader)
    }

    /// A member and the others cannot reach each other any more, but clients reach all of them. Returns at once:
    /// [`is_led`](Cluster::is_led) waits for the others.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub fn isolate(&self, member: &N) -> Result<()> {
        let number = self.part(member, Away::CutOff)?;
        self.network.cut_off(number);
        Ok(())
    }

    /// Brings back all members that are lost or isolated. Returns once all agree on a leader, and each serves.
    ///
    /// # Errors
    /// One does not start, or they do not agree within twenty seconds.
    pub async fn heal(&self) -> Result<()> {
        for (number, member) in self.members.iter().enumerate() {
            let away = member.away().take();
            match away {
                Some(Away::Lost(Loss::Killed)) => member.node.is_started_again().await?,
                Some(Away::Lost(Loss::Stopped)) => member.node.goes_on()?,
                Some(Away::CutOff) => self.network.heal(number),
                None => {}
            }
        }
        self.is_led().await
    }

    /// Kills all members as `kill -9` does, and waits until they are gone.
    pub async fn kill(&self) -> Result<()> {
        self.each(async |member| member.is_killed().await).await
    }

    /// Starts all members again after their end, at the same ports, with what they have written.
    pub async fn start_again(&self) -> Result<()> {
        self.each(async |member| member.is_started_again().await).await?;
        self.is_led().await
    }

    /// Stops all members as `kill -STOP` does: their connections stay open, and nobody answers.
    pub async fn stop(&self) -> Result<()> {
        self.each(async |member| member.is_stopped().await).await
    }

    /// Lets all members go on.
    pub fn go_on(&self) -> Result<()> {
        self.members.iter().try_for_each(|member| member.node.goes_on())
    }

    /// Ends the connections of the clients of all members that are not lost, and returns how many those were.
    pub fn disconnect(&self) -> Result<usize> {
        self.present().iter().map(|member| member.is_disconnected()).sum()
    }

    /// How many descriptors of this process are for what its members say to each other. It changes with how much that is.
    pub fn descriptors(&self) -> usize {
        self.network.descriptors()
    }

    pub(super) fn network(&self) -> &PeerNetwork {
        &self.network
    }

    /// Does it to all of them at once.
    pub(super) async fn each<F>(&self, act: impl FnMut(Arc<N>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        together(self.members().into_iter().map(act)).await.map(drop)
    }

    /// Those that have not been lost.
    pub(super) fn present(&self) -> Vec<Arc<N>> {
        let present = self.members.iter().filter(|member| member.away().is_none());
        present.map(|member| Arc::clone(&member.node)).collect()
    }

    /// Nobody waits for this member any more. Returns its number.
    fn part(&self, member: &N, away: Away) -> Result<usize> {
        let is_it = |(_, it): &(usize, &Member<N>)| std::ptr::eq(&raw const *it.node, member);
        let found = self.members.iter().enumerate().find(is_it);
        let (number, it) = found.ok_or_else(|| Error::invalid("it is no member of this cluster"))?;
        if it.away().is_some() {
            return Err(Error::invalid("this member is lost already: heal the cluster first"));
        }
        if (self.present().len() - 1) * 2 <= self.members.len() {
            return Err(Error::invalid("a majority has to be left: heal the cluster first"));
        }
        *it.away() = Some(away);
        Ok(number)
    }
}

impl<N> Member<N> {
    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
