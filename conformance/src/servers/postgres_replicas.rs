//! Replicas of a [`Postgres`], which can be held back: what it acknowledges from then on never reaches them.

use std::path::{Path, PathBuf};

use lock_core::{Error, Result};
use tokio::process::Command;

use super::postgres::{DATABASE, Postgres};
use super::postgres_programs::{program, succeed};
use super::postgres_setup::PostgresSetup;
use super::postgres_template::{ADMIN, write};
use super::psql::Login;
use super::waiting::until;

/// In a replica's directory: its password at the primary.
const PASSWORDS: &str = "passwords";

/// The primary of a replica, which is reached by its Unix socket: there, neither TLS nor an island is in the way.
#[derive(Clone)]
pub(super) struct Primary {
    sockets: PathBuf,
    port: u16,
}

impl PostgresSetup {
    /// Starts a replica, which answers and takes no writes; returns once it has everything.
    ///
    /// The primary does not wait for it with an acknowledgement, unless its setting `synchronous_standby_names` says so. They
    /// talk through the primary's Unix socket.
    ///
    /// # Errors
    /// It does not start, or its primary does not let it in.
    pub async fn start_replica_of(mut self, primary: &Postgres) -> Result<Postgres> {
        let sockets = primary.socket_directory().to_owned();
        self.replica_of = Some(Primary { sockets, port: primary.port() });
        let replica = self.start().await?;
        replica.is_in_step().await?;
        replica.has_everything_of(primary).await?;
        Ok(replica)
    }
}

impl Primary {
    /// Makes the data of a replica.
    pub(super) async fn copy_to(&self, replica: &Postgres) -> Result<()> {
        let user = replica.user();
        let passwords = format!("*:*:*:{ADMIN}:{}\n", replica.password());
        write(user, &replica.directory().join(PASSWORDS), passwords.as_bytes())?;
        let mut command = Command::new(program("pg_basebackup")?);
        command
            .args(["--no-password", "--checkpoint=fast", "--no-sync", "--wal-method=stream", "-D"])
            .arg(replica.data())
            .current_dir(replica.directory());
        let login = Login {
            host: self.sockets.as_os_str(),
            port: self.port,
            user: ADMIN,
            password: replica.password(),
            database: DATABASE,
        };
        login.leads(&mut command);
        user.runs(&mut command);
        succeed(command).await?;
        write(user, &replica.data().join("standby.signal"), b"")
    }

    /// How a replica calls it that is in this directory.
    pub(super) fn connection(&self, directory: &Path) -> String {
        format!(
            "host={} port={} user={ADMIN} passfile={}",
            quoted(&self.sockets),
            self.port,
            quoted(&directory.join(PASSWORDS)),
        )
    }
}

impl Postgres {
    /// Waits until its replicas have everything so far, and cuts them off: what it acknowledges from now on never reaches
    /// them. Clients notice nothing. It lasts until they are let, or it is started again.
    ///
    /// # Errors
    /// It has no replica.
    pub async fn hold_back_replicas(&self) -> Result<()> {
        if self.number("SELECT count(*) FROM pg_stat_replication").await? == 0 {
            return Err(Error::invalid("there is no replica to be held back").at(self.address()));
        }
        let position = self.position().await?;
        // It need not have done what it has on its disk: it does that before it becomes a primary.
        let all =
            format!("SELECT count(*) > 0 AND bool_and(flush_lsn >= '{position}') FROM pg_stat_replication");
        until("every replica has everything", async || self.says(&all).await).await?;
        self.cut_off_replicas().await
    }

    /// The same without the wait.
    pub(super) async fn cut_off_replicas(&self) -> Result<()> {
        self.setup().admit(self, false)?;
        self.reload().await?;
        until("no replica is connected", async || {
            let ended =
                self.number("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication").await?;
            Ok((ended == 0).then_some(()))
        })
        .await
    }

    /// Lets its replicas come back, who are sent what they have missed.
    pub async fn let_replicas_follow(&self) -> Result<()> {
        self.setup().admit(self, true)?;
        self.reload().await
    }

    /// Makes this replica a primary, whatever became of its own; returns once it takes writes.
    ///
    /// # Errors
    /// It is no replica.
    pub async fn promote(&self) -> Result<()> {
        self.run("SELECT pg_promote(false)").await?;
        let what = format!("{} is a primary", self.address());
        until(&what, async || Ok(self.is_primary().await?.then_some(()))).await
    }

    /// Whether it is no replica, or no longer one.
    pub async fn is_primary(&self) -> Result<bool> {
        Ok(self.run("SELECT pg_is_in_recovery()").await? == "f")
    }

    /// Waits until this replica shows everything that its primary has acknowledged so far.
    ///
    /// # Errors
    /// It does not within 20 seconds: it is held back, perhaps.
    pub async fn has_everything_of(&self, primary: &Postgres) -> Result<()> {
        let position = primary.position().await?;
        let what = format!("{} has everything of {}", self.address(), primary.address());
        let has = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        until(&what, async || self.says(&has).await).await
    }

    /// Waits until it follows its primary.
    async fn is_in_step(&self) -> Result<()> {
        let what = format!("{} follows its primary", self.address());
        let follows = "SELECT count(*) > 0 FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        until(&what, async || self.says(follows).await).await
    }

    /// Up to where it has written: what it has acknowledged is before that.
    async fn position(&self) -> Result<String> {
        self.run("SELECT pg_current_wal_flush_lsn()").await
    }

    async fn says(&self, sql: &str) -> Result<Option<()>> {
        Ok((self.run(sql).await? == "t").then_some(()))
    }
}

/// A value in a description of a connection, whatever is in it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'"))
}
