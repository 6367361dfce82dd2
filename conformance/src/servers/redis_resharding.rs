//! [`Moving`]: a slot of a [`RedisCluster`] that moves from one node to another, as `redis-cli` moves it, or step by step.

use std::sync::Arc;

use lock_core::{Error, Result};

use super::redis::Redis;
use super::redis_cluster::RedisCluster;
use super::resp::Reply;
use super::waiting::until;

/// How many keys move at once.
const BATCH: &str = "100";

/// A slot that both nodes know to be moving: the old one serves the keys that are still there, and says `ASK` about the
/// others. So it stays until it is [finished](Moving::finish).
#[must_use]
#[derive(Debug)]
pub struct Moving<'a> {
    cluster: &'a RedisCluster,
    slot: u16,
    from: Arc<Redis>,
    to: Arc<Redis>,
}

impl RedisCluster {
    /// Moves the slot of a key, and all keys in it, to another primary. Returns once every node says so.
    ///
    /// # Errors
    /// It is there already, or a node refuses.
    pub async fn move_slot_of(&self, key: &str, to: &Redis) -> Result<()> {
        let moving = self.begin_moving(key, to).await?;
        moving.migrate_all().await?;
        moving.finish().await
    }

    /// Begins to move the slot of a key to another primary; no key has moved yet.
    ///
    /// # Errors
    /// It is there already, or a node refuses.
    pub async fn begin_moving(&self, key: &str, to: &Redis) -> Result<Moving<'_>> {
        let slot = self.slot(key).await?;
        let (from, to) = (self.owner_of(slot).await?, self.at(to.port())?);
        if Arc::ptr_eq(&from, &to) {
            return Err(Error::invalid(format!("the slot of {key} is there already")).at(to.address()));
        }
        let (from_id, to_id) = (from.cluster_id().await?, to.cluster_id().await?);
        to.done(&["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", &from_id]).await?;
        from.done(&["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &to_id]).await?;
        Ok(Moving { cluster: self, slot, from, to })
    }
}

impl Moving<'_> {
    /// Where the slot has been.
    pub fn from(&self) -> &Redis {
        &self.from
    }

    /// Where it will be.
    pub fn to(&self) -> &Redis {
        &self.to
    }

    /// Moves these keys. One that does not exist is no error.
    ///
    /// # Errors
    /// A node refuses, or does not answer.
    pub async fn migrate(&self, keys: &[&str]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let at = self.to.endpoint();
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let mut words = vec!["MIGRATE", &ip, &port, "", "0", "5000"];
        if let Some(password) = &self.to.setup().password {
            words.extend(["AUTH", password]);
        }
        words.push("KEYS");
        words.extend(keys);
        match self.from.command(words).await? {
            Reply::Error(error) => {
                // Without the words: the password is among them.
                Err(Error::unavailable(format!("MIGRATE: {error}")).at(self.from.address()))
            }
            _ => Ok(()),
        }
    }

    /// Moves every key that is left in the slot.
    ///
    /// # Errors
    /// A node refuses, or does not answer.
    pub async fn migrate_all(&self) -> Result<()> {
        loop {
            let slot = self.slot.to_string();
            let left = match self.from.answer(&["CLUSTER", "GETKEYSINSLOT", &slot, BATCH]).await? {
                Reply::List(keys) => keys,
                _ => Vec::new(),
            };
            let left: Vec<_> = left
                .iter()
                .filter_map(|key| if let Reply::Text(key) = key { Some(&**key) } else { None })
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            self.migrate(&left).await?;
        }
    }

    /// Gives the slot away: the new node learns it first, so that at no time nobody has it. Returns once every node says so.
    ///
    /// # Errors
    /// There are keys left, a node refuses, or they do not agree in time.
    pub async fn finish(self) -> Result<()> {
        self.is_empty().await?;
        let (slot, id) = (self.slot.to_string(), self.to.cluster_id().await?);
        let assign = ["CLUSTER", "SETSLOT", &slot, "NODE", &id];
        self.to.done(&assign).await?;
        self.from.done(&assign).await?;
        for other in self.cluster.living() {
            let is_other = !Arc::ptr_eq(&other, &self.to) && !Arc::ptr_eq(&other, &self.from);
            if is_other && other.is_primary().await? {
                other.done(&assign).await?;
            }
        }
        let what = format!("every node knows that slot {slot} has moved to {}", self.to.address());
        until(&what, async || {
            let owner = self.cluster.agreed_owner(self.slot).await?;
            // A node that takes a slot takes the next number, of those that it knows: two that take one at once would take the same
            // and contradict each other, unless each knows of the one before.
            Ok((Arc::ptr_eq(&owner, &self.to) && self.cluster.has_one_epoch().await?).then_some(()))
        })
        .await
    }

    /// A node that hears that a slot is another's throws away what it has in it.
    async fn is_empty(&self) -> Result<()> {
        match self.from.answer(&["CLUSTER", "COUNTKEYSINSLOT", &self.slot.to_string()]).await? {
            Reply::Number(0) => Ok(()),
            left => Err(Error::invalid(format!("keys of slot {} have not moved yet: {left:?}", self.slot))
                .at(self.from.address())),
        }
    }
}
