//! [`Members`]: servers that agree with each other, which of them are lost or cut off, and how they come back.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lock_core::{Error, Result};

use super::peer_network::PeerNetwork;
use super::waiting::together;
use crate::remote::Loss;

/// A server that may be a member.
#[async_trait]
pub(super) trait Node: Send + Sync + 'static {
    /// Kills it as `kill -9` does, and waits until it is gone.
    async fn is_killed(&self) -> Result<()>;
    /// Stops it as `kill -STOP` does, and waits until it stands still.
    async fn is_stopped(&self) -> Result<()>;
    /// Lets it go on.
    fn goes_on(&self) -> Result<()>;
    /// Starts it again after its end, with what it has written.
    async fn is_started_again(&self) -> Result<()>;
}

#[derive(Debug)]
pub(super) struct Members<N> {
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

impl<N: Node> Members<N> {
    pub(super) fn new(nodes: Vec<Arc<N>>, network: PeerNetwork) -> Members<N> {
        let members = nodes.into_iter().map(|node| Member { node, away: Mutex::new(None) }).collect();
        Members { members, network }
    }

    pub(super) fn network(&self) -> &PeerNetwork {
        &self.network
    }

    /// All of them, those that are lost too.
    pub(super) fn all(&self) -> Vec<Arc<N>> {
        self.members.iter().map(|member| Arc::clone(&member.node)).collect()
    }

    /// Those that have not been lost, each with its number.
    pub(super) fn present(&self) -> impl Iterator<Item = (usize, &Arc<N>)> {
        let members = self.members.iter().enumerate();
        members.filter(|(_, member)| member.away().is_none()).map(|(number, member)| (number, &member.node))
    }

    /// A member is lost in this way.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub(super) async fn lose(&self, member: &N, how: Loss) -> Result<()> {
        self.part(member, Away::Lost(how))?;
        match how {
            Loss::Killed => member.is_killed().await,
            Loss::Stopped => member.is_stopped().await,
        }
    }

    /// A member and the others cannot reach each other any more, but clients reach all of them.
    ///
    /// # Errors
    /// It is no member, it is lost already, or less than a majority would be left.
    pub(super) fn isolate(&self, member: &N) -> Result<()> {
        let number = self.part(member, Away::CutOff)?;
        self.network.cut_off(number);
        Ok(())
    }

    /// Brings back all members that are lost or isolated.
    pub(super) async fn heal(&self) -> Result<()> {
        for (number, member) in self.members.iter().enumerate() {
            let away = member.away().take();
            match away {
                Some(Away::Lost(Loss::Killed)) => member.node.is_started_again().await?,
                Some(Away::Lost(Loss::Stopped)) => member.node.goes_on()?,
                Some(Away::CutOff) => self.network.heal(number),
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn go_on(&self) -> Result<()> {
        self.members.iter().try_for_each(|member| member.node.goes_on())
    }

    /// Does it to all of them at once.
    pub(super) async fn each<F>(&self, act: impl FnMut(Arc<N>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        together(self.all().into_iter().map(act)).await.map(drop)
    }

    /// Nobody waits for this member any more. Returns its number.
    fn part(&self, member: &N, away: Away) -> Result<usize> {
        let is_it = |(_, it): &(usize, &Member<N>)| std::ptr::eq(&raw const *it.node, member);
        let found = self.members.iter().enumerate().find(is_it);
        let (number, it) = found.ok_or_else(|| Error::invalid("it is no member of this cluster"))?;
        if it.away().is_some() {
            return Err(Error::invalid("this member is lost already: heal the cluster first"));
        }
        if (self.present().count() - 1) * 2 <= self.members.len() {
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
