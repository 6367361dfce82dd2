//! Replicas of a [`Redis`], which can be held back: what it acknowledges from then on never reaches them.

use lock_core::{Error, Result};

use super::account::Account;
use super::redis::Redis;
use super::redis_setup::{RedisSetup, quoted};
use super::waiting::until;

impl RedisSetup {
    /// Its replicas have an account of their own, so that they can be held back.
    #[must_use]
    pub fn replicated(mut self) -> RedisSetup {
        self.replicas = Some(Account::replica());
        self
    }

    /// Starts a replica, which has the password of its primary; returns once it has everything.
    ///
    /// # Errors
    /// It does not start, or its primary does not let it in.
    pub async fn start_replica_of(self, primary: &Redis) -> Result<Redis> {
        let mut setup = self;
        setup.password.clone_from(&primary.setup().password);
        setup.replicas.clone_from(&primary.setup().replicas);
        setup.replica_of = Some(primary.endpoint());
        let replica = setup.start().await?;
        replica.is_in_step().await?;
        Ok(replica)
    }

    /// What it says to its primary, and to its replicas. Every node says it: any of them may be a primary later.
    pub(super) fn replication(&self) -> String {
        // Otherwise a replica waits for others, for whom the same transfer would do.
        let mut lines = "repl-diskless-sync-delay 0\n".to_owned();
        if let Some(replicas) = &self.replicas {
            lines += &replicas.line();
            lines += &format!("masteruser {}\nmasterauth {}\n", replicas.name(), replicas.secret());
        } else if let Some(password) = &self.password {
            lines += &format!("masterauth {}\n", quoted(password));
        }
        if let Some(primary) = &self.replica_of {
            lines += &format!("replicaof {} {}\n", primary.ip(), primary.port());
        }
        lines
    }
}

impl Redis {
    /// Waits until its replicas have everything so far, and cuts them off: what it acknowledges from now on never reaches
    /// them. Clients notice nothing.
    ///
    /// # Errors
    /// It has no replica, or was not set up as [`replicated`](RedisSetup::replicated).
    pub async fn hold_back_replicas(&self) -> Result<()> {
        let account = self.account_of_replicas()?;
        if self.info("replication").await?.contains("connected_slaves:0") {
            return Err(Error::invalid("there is no replica to be held back").at(self.address()));
        }
        until("every replica has everything", async || self.replicas_have_everything().await).await?;
        account.close(self).await
    }

    /// Lets its replicas come back, who are sent what they have missed.
    ///
    /// # Errors
    /// It was not set up as [`replicated`](RedisSetup::replicated).
    pub async fn let_replicas_follow(&self) -> Result<()> {
        self.account_of_replicas()?.open(self).await
    }

    pub(super) fn account_of_replicas(&self) -> Result<&Account> {
        let account = self.setup().replicas.as_ref();
        account.ok_or_else(|| Error::invalid("its replicas cannot be held back: set it up as `replicated`"))
    }

    /// As a node of a cluster, which may not have heard of the other one yet.
    pub(super) async fn becomes_replica_of(&self, primary: &Redis) -> Result<()> {
        let id = primary.cluster_id().await?;
        let what = format!("{} becomes a replica of {}", self.address(), primary.address());
        until(&what, async || self.done(&["CLUSTER", "REPLICATE", &id]).await.map(Some)).await
    }

    /// Waits until it follows its primary, as a replica.
    pub(super) async fn is_in_step(&self) -> Result<()> {
        let what = format!("{} follows its primary", self.address());
        until(&what, async || {
            let info = self.info("replication").await?;
            Ok(info.contains("master_link_status:up").then_some(()))
        })
        .await
    }

    /// Replicas say each second how far they are; `WAIT` for more than there are makes them say it at once.
    async fn replicas_have_everything(&self) -> Result<Option<()>> {
        let written = field(&self.info("replication").await?, "master_repl_offset:");
        self.done(&["WAIT", "1000", "10"]).await?;
        let info = self.info("replication").await?;
        let replicas: Vec<_> = info.lines().filter(|line| is_replica(line)).collect();
        let all = !replicas.is_empty()
            && replicas.iter().all(|line| line.contains("state=online") && field(line, "offset=") >= written);
        Ok(all.then_some(()))
    }
}

/// `slave0:ip=127.0.0.1,port=6380,state=online,offset=42,lag=0`
fn is_replica(line: &str) -> bool {
    line.strip_prefix("slave").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// The number after a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    rest.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}
