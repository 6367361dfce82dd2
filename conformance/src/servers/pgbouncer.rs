//! [`PgBouncer`]: clients of a [`Postgres`] share its connections.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Error, Result};
use tempfile::TempDir;

use super::hanging_up::hang_up;
use super::ports::{Port, free_port, on_free_ports};
use super::postgres::{DATABASE, Postgres, url};
use super::postgres_programs::{missing, on_path};
use super::postgres_template::{ADMIN, directory, write};
use super::process::{Program, Server};
use super::psql::Login;
use super::unprivileged::Unprivileged;

/// The database by which it is asked about itself.
const CONSOLE: &str = "pgbouncer";

/// For how long a client has one of the server's connections to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Until it leaves.
    Session,
    /// For a transaction. What a session keeps beyond that is kept for somebody else.
    Transaction,
    /// For a statement; transactions of several are refused.
    Statement,
}

/// How a PgBouncer is to be started.
#[derive(Clone)]
pub struct PgBouncerSetup {
    mode: PoolMode,
    size: u32,
    accounts: BTreeMap<String, String>,
    settings: Vec<(String, String)>,
}

/// A PgBouncer of a test's own, in front of a [`Postgres`], which it finds again when that is started again. Ends when it is
/// dropped.
#[derive(Debug)]
pub struct PgBouncer {
    /// Dropped first: the directory and the port are the server's until it has ended.
    server: Mutex<Option<Arc<Server>>>,
    program: PathBuf,
    user: Unprivileged,
    directory: TempDir,
    port: Port,
    password: Secret,
}

struct Secret(String);

impl PgBouncerSetup {
    /// A transaction has a connection to itself. There are twenty of them, and the user who may do everything may use them.
    pub fn new() -> PgBouncerSetup {
        PgBouncerSetup {
            mode: PoolMode::Transaction,
            size: 20,
            accounts: BTreeMap::new(),
            settings: Vec::new(),
        }
    }

    /// For how long a client has a connection to itself.
    #[must_use]
    pub fn pool_mode(mut self, mode: PoolMode) -> PgBouncerSetup {
        self.mode = mode;
        self
    }

    /// How many connections there are for each user; clients wait for a free one.
    #[must_use]
    pub fn pool_size(mut self, size: u32) -> PgBouncerSetup {
        self.size = size;
        self
    }

    /// Another user who may use it. The server has to have this [account](Postgres::account).
    #[must_use]
    pub fn account(mut self, user: impl Into<String>, password: impl Into<String>) -> PgBouncerSetup {
        self.accounts.insert(user.into(), password.into());
        self
    }

    /// A setting, as it stands in the section `[pgbouncer]`: `("query_wait_timeout", "2")`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> PgBouncerSetup {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Starts one in front of this server, whose Unix socket it uses, and waits until it answers.
    ///
    /// # Errors
    /// PgBouncer is not installed, or it does not start; the message has its last words.
    pub async fn start_before(self, postgres: &Postgres) -> Result<PgBouncer> {
        let program = on_path("pgbouncer").ok_or_else(|| missing("pgbouncer", "pgbouncer"))?;
        on_free_ports(async || {
            let user = postgres.user();
            let pgbouncer = PgBouncer {
                server: Mutex::new(None),
                program: program.clone(),
                user,
                directory: directory(user, "pgbouncer-")?,
                port: free_port()?,
                password: Secret(postgres.password().to_owned()),
            };
            self.configure(&pgbouncer, postgres)?;
            pgbouncer.launch().await?;
            Ok(pgbouncer)
        })
        .await
    }

    fn configure(&self, pgbouncer: &PgBouncer, postgres: &Postgres) -> Result<()> {
        let mut users = format!("{} {}\n", quoted(ADMIN), quoted(postgres.password()));
        for (user, password) in &self.accounts {
            // Writing to a string cannot fail.
            let _ = writeln!(users, "{} {}", quoted(user), quoted(password));
        }
        write(pgbouncer.user, &pgbouncer.directory().join("users.txt"), users.as_bytes())?;
        let sockets = postgres.socket_directory().to_string_lossy().replace('\'', "''");
        let mut lines = format!(
            "[databases]\n* = host='{sockets}' port={}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = users.txt\nadmin_users = {ADMIN}\n\
             pool_mode = {}\ndefault_pool_size = {}\nmax_client_conn = 1000\n\
             ignore_startup_parameters = extra_float_digits\nserver_login_retry = 0.1\n",
            postgres.port(),
            pgbouncer.port(),
            self.mode.word(),
            self.size,
        );
        for (name, value) in &self.settings {
            let _ = writeln!(lines, "{name} = {value}");
        }
        write(pgbouncer.user, &pgbouncer.directory().join("pgbouncer.ini"), lines.as_bytes())
    }
}

impl PgBouncer {
    /// Its address: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port())).to_string()
    }

    /// Its port, the same after another start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its URL for the user who may do everything, with the password: `postgres://admin:PASSWORD@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        self.url_of(ADMIN, &self.password.0)
    }

    /// Its URL for this user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        url(&self.address(), user, password)
    }

    /// Its directory: the configuration and the log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    ///
    /// # Errors
    /// It has been ended.
    pub fn server(&self) -> Result<Arc<Server>> {
        self.running().clone().ok_or_else(|| Error::unavailable("PgBouncer has been ended: start it again"))
    }

    /// Runs statements through it, as [`Postgres::run`] does without it.
    ///
    /// # Errors
    /// No connection, no end within five seconds, or an error, which has PostgreSQL's words.
    pub async fn run(&self, sql: &str) -> Result<String> {
        self.ask(DATABASE, sql).await
    }

    /// Asks it about itself, or tells it something: `SHOW POOLS`, `PAUSE`, `RESUME`.
    ///
    /// # Errors
    /// As those of [`run`](PgBouncer::run).
    pub async fn command(&self, command: &str) -> Result<String> {
        self.ask(CONSOLE, command).await
    }

    /// Ends the connections of all its clients, and returns how many those were.
    ///
    /// # Errors
    /// [`Unsupported`](lock_core::ErrorKind::Unsupported) where the system does not let a test at its server's sockets.
    pub fn disconnect(&self) -> Result<usize> {
        hang_up(self.server()?.pid(), self.port())
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.server()?.kill().await?;
        self.running().take();
        Ok(())
    }

    /// Ends it in an orderly way, and waits until it is gone. One that is stopped does not hear it.
    pub async fn shut_down(&self) -> Result<()> {
        self.server()?.terminate().await?;
        self.running().take();
        Ok(())
    }

    /// Starts it again after its end, at the same port.
    pub async fn start_again(&self) -> Result<()> {
        match &*self.running() {
            Some(server) if !server.has_ended()? => {
                return Err(Error::invalid("PgBouncer still runs: end it first"));
            }
            _ => {}
        }
        self.launch().await
    }

    /// Stops it as `kill -STOP` does, and waits until it stands still: its connections stay open, and nobody answers.
    pub async fn stop(&self) -> Result<()> {
        self.server()?.comes_to_a_stand().await
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        self.server()?.go_on()
    }

    async fn launch(&self) -> Result<()> {
        let program = Program::new(self.program.to_string_lossy(), self.directory())
            .package("pgbouncer")
            .arguments(["pgbouncer.ini"])
            .user(self.user);
        let server = program.start(async || self.command("SHOW VERSION").await.map(|_| true)).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    async fn ask(&self, database: &str, sql: &str) -> Result<String> {
        let login = Login {
            host: OsStr::new("127.0.0.1"),
            port: self.port(),
            user: ADMIN,
            password: &self.password.0,
            database,
        };
        login.run(sql).await.map_err(|error| error.at(self.address()))
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolMode {
    /// As PgBouncer calls it.
    fn word(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

impl Default for PgBouncerSetup {
    fn default() -> PgBouncerSetup {
        PgBouncerSetup::new()
    }
}

impl fmt::Debug for PgBouncerSetup {
    /// Without the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBouncerSetup")
            .field("mode", &self.mode)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    /// Without it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A name or a password in its list of users, whatever is in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
