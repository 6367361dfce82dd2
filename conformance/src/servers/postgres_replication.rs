//! [`PostgresReplication`]: a PostgreSQL primary and its replica, which takes its place when it is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::Result;

use super::postgres::{Postgres, url};
use super::postgres_setup::PostgresSetup;
use crate::remote::Loss;

/// A PostgreSQL primary and its replica. Ends when it is dropped.
///
/// PostgreSQL has nothing that puts a replica in a primary's place by itself; here, the harness does it, as an operator would.
/// The primary does not wait for its replica.
#[derive(Debug)]
pub struct PostgresReplication {
    roles: Mutex<Roles>,
    setup: PostgresSetup,
}

/// Who is what.
#[derive(Debug)]
struct Roles {
    primary: Arc<Postgres>,
    replica: Arc<Postgres>,
    /// Those that were primaries, in that order.
    lost: Vec<Arc<Postgres>>,
}

/// How a primary and its replica are to be started.
#[derive(Clone, Debug, Default)]
pub struct PostgresReplicationSetup {
    node: PostgresSetup,
}

impl PostgresReplication {
    /// A primary and its replica. Returns once the replica has everything.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start() -> Result<PostgresReplication> {
        PostgresReplicationSetup::new().start().await
    }

    /// All nodes, also those that are lost: the first primary, its replica, then those that came later.
    pub fn nodes(&self) -> Vec<Arc<Postgres>> {
        let roles = self.roles();
        let living = [&roles.primary, &roles.replica];
        roles.lost.iter().chain(living).cloned().collect()
    }

    /// The addresses of all nodes, in the same order.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.address()).collect()
    }

    /// A URL with all of these addresses, for the user who may do everything: `postgres://admin:PASSWORD@ADDRESS:PORT,ADDRESS:PORT/postgres`.
    /// A client has to look for the one that takes writes.
    pub fn url(&self) -> String {
        let primary = self.primary();
        url(&self.addresses().join(","), primary.user_name(), primary.password())
    }

    /// The node that has been made primary last.
    pub fn primary(&self) -> Arc<Postgres> {
        Arc::clone(&self.roles().primary)
    }

    /// The node that follows the primary.
    pub fn replica(&self) -> Arc<Postgres> {
        Arc::clone(&self.roles().replica)
    }

    /// Waits until the replica shows everything that the primary has acknowledged so far.
    ///
    /// # Errors
    /// It does not within 20 seconds.
    pub async fn is_in_step(&self) -> Result<()> {
        self.replica().has_everything_of(&self.primary()).await
    }

    /// Waits until the replica has everything so far, and cuts it off: what the primary acknowledges from now on never reaches
    /// it.
    ///
    /// # Errors
    /// The replica is held back already.
    pub async fn hold_back_replicas(&self) -> Result<()> {
        self.primary().hold_back_replicas().await
    }

    /// Lets the replica come back, which is sent what it has missed.
    pub async fn let_replicas_follow(&self) -> Result<()> {
        self.primary().let_replicas_follow().await
    }

    /// The primary is lost in this way. Returns once its replica is primary, takes writes and has a replica of its own, so that it
    /// can be lost too. Returns the node that is lost; one that is stopped may be killed now.
    ///
    /// It may not be started again: nobody tells it that there is another primary.
    ///
    /// # Errors
    /// The replica does not take over, or no other one starts.
    pub async fn lose_primary(&self, how: Loss) -> Result<Arc<Postgres>> {
        let lost = self.primary();
        match how {
            Loss::Killed => lost.kill().await?,
            Loss::Stopped => lost.stop().await?,
        }
        self.replica_takes_over().await?;
        Ok(lost)
    }

    /// The replica cannot reach the primary any more, but clients can: it goes on as one. Returns once the replica is primary too,
    /// as [`lose_primary`](PostgresReplication::lose_primary) does, with the node that is cut off.
    ///
    /// # Errors
    /// The replica does not take over, or no other one starts.
    pub async fn isolate_primary(&self) -> Result<Arc<Postgres>> {
        let cut_off = self.primary();
        cut_off.cut_off_replicas().await?;
        self.replica_takes_over().await?;
        Ok(cut_off)
    }

    async fn replica_takes_over(&self) -> Result<()> {
        let next = self.replica();
        next.promote().await?;
        let replica = self.setup.clone().start_replica_of(&next).await?;
        let mut roles = self.roles();
        roles.replica = Arc::new(replica);
        let lost = std::mem::replace(&mut roles.primary, next);
        roles.lost.push(lost);
        Ok(())
    }

    fn roles(&self) -> MutexGuard<'_, Roles> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PostgresReplicationSetup {
    /// Nothing asked of the nodes.
    pub fn new() -> PostgresReplicationSetup {
        PostgresReplicationSetup::default()
    }

    /// How the primary and its replica are to be started.
    #[must_use]
    pub fn nodes(mut self, setup: PostgresSetup) -> PostgresReplicationSetup {
        self.node = setup;
        self
    }

    /// Starts both. Returns once the replica has everything.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(self) -> Result<PostgresReplication> {
        let primary = self.node.clone().start().await?;
        let replica = self.node.clone().start_replica_of(&primary).await?;
        let (primary, replica) = (Arc::new(primary), Arc::new(replica));
        let roles = Mutex::new(Roles { primary, replica, lost: Vec::new() });
        Ok(PostgresReplication { roles, setup: self.node })
    }
}
