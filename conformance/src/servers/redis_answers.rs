//! What the harness itself asks a [`Redis`] for, when it has it do something together with others.

use lock_core::{Error, Result};

use super::redis::Redis;
use super::resp::Reply;

impl Redis {
    /// One section of what it says about itself.
    pub(super) async fn info(&self, section: &str) -> Result<String> {
        self.text(&["INFO", section]).await
    }

    /// Sends a command whose answer is a text.
    pub(super) async fn text(&self, words: &[&str]) -> Result<String> {
        match self.answer(words).await? {
            Reply::Text(text) => Ok(text),
            other => Err(Error::unavailable(format!("{}: {other:?}", words.join(" "))).at(self.address())),
        }
    }

    /// Sends a command that has to succeed.
    pub(super) async fn done(&self, words: &[&str]) -> Result<()> {
        self.answer(words).await.map(drop)
    }

    /// An error reply is an error here. The words are told, so no password may be among them.
    pub(super) async fn answer(&self, words: &[&str]) -> Result<Reply> {
        match self.command(words.iter().copied()).await? {
            Reply::Error(error) => {
                Err(Error::unavailable(format!("{}: {error}", words.join(" "))).at(self.address()))
            }
            reply => Ok(reply),
        }
    }

    /// Whether it is a primary that takes writes, also where it has to have replicas for that. Writes nothing.
    pub(super) async fn takes_writes(&self, key: &str) -> Result<bool> {
        match self.command(["SETRANGE", key, "0", ""]).await? {
            Reply::Number(_) => Ok(true),
            // There is something else under this key.
            Reply::Error(error) => Ok(error.starts_with("WRONGTYPE")),
            _ => Ok(false),
        }
    }

    /// Whether it is a primary.
    pub(super) async fn is_primary(&self) -> Result<bool> {
        match self.answer(&["ROLE"]).await? {
            Reply::List(role) => Ok(role.first() == Some(&Reply::Text("master".to_owned()))),
            _ => Ok(false),
        }
    }

    /// Who it is in its cluster.
    pub(super) async fn cluster_id(&self) -> Result<String> {
        self.text(&["CLUSTER", "MYID"]).await
    }

    /// The slot in which a key lies.
    pub(super) async fn slot_of(&self, key: &str) -> Result<u16> {
        let answer = self.answer(&["CLUSTER", "KEYSLOT", key]).await?;
        let slot = if let Reply::Number(slot) = answer { u16::try_from(slot).ok() } else { None };
        slot.ok_or_else(|| Error::unavailable("no slot").at(self.address()))
    }

    /// The port of the node that serves a slot, as this one says.
    pub(super) async fn owner_of(&self, slot: u16) -> Result<u16> {
        let ranges = self.answer(&["CLUSTER", "SLOTS"]).await?;
        owner_among(&ranges, i64::from(slot))
            .ok_or_else(|| Error::unavailable(format!("nobody serves slot {slot}")).at(self.address()))
    }
}

/// Ranges are first slot, last slot, owner, replicas; a node is address, port, and more.
fn owner_among(ranges: &Reply, slot: i64) -> Option<u16> {
    let Reply::List(ranges) = ranges else { return None };
    ranges.iter().find_map(|range| {
        let Reply::List(range) = range else { return None };
        let [Reply::Number(first), Reply::Number(last), Reply::List(owner), ..] = &range[..] else {
            return None;
        };
        match &owner[..] {
            [_, Reply::Number(port), ..] if (*first..=*last).contains(&slot) => u16::try_from(*port).ok(),
            _ => None,
        }
    })
}
