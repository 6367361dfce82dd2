//! What can be asked of a [`Postgres`]: statements, accounts, and what keeps its clients from writing.

use lock_core::{Error, Result};

use super::postgres::{DATABASE, Postgres};
use super::psql::Login;
use super::waiting::until;

/// Everybody else who is connected.
const CLIENTS: &str =
    "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

impl Postgres {
    /// Runs statements as the user who may do everything, up to the first that fails, and returns what they say: a line for each
    /// row, with `|` between columns. They come through the Unix socket, on a connection of their own.
    ///
    /// # Errors
    /// No connection, no end within five seconds, or an error, which has PostgreSQL's words.
    pub async fn run(&self, sql: &str) -> Result<String> {
        self.login().run(sql).await.map_err(|error| error.at(self.address()))
    }

    /// Runs one statement, and returns its rows. `NULL` is an empty text.
    ///
    /// # Errors
    /// As those of [`run`](Postgres::run).
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        self.login().rows(sql).await.map_err(|error| error.at(self.address()))
    }

    /// Ends the connections of all its clients, and returns how many those were. Replicas are no clients.
    pub async fn disconnect(&self) -> Result<usize> {
        self.number(&format!("SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) {CLIENTS}")).await
    }

    /// How many clients are connected.
    pub async fn connections(&self) -> Result<usize> {
        self.number(&format!("SELECT count(*) {CLIENTS}")).await
    }

    /// An account that may connect, and has no rights of its own.
    ///
    /// # Errors
    /// There is one of this name.
    pub async fn account(&self, user: &str, password: &str) -> Result<()> {
        self.run(&format!("CREATE ROLE {} LOGIN PASSWORD {}", name(user), text(password))).await.map(drop)
    }

    /// Takes an account away, with all that it has here. Whoever is connected with it stays.
    ///
    /// # Errors
    /// There is no such account.
    pub async fn remove_account(&self, user: &str) -> Result<()> {
        let user = name(user);
        self.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).await.map(drop)
    }

    /// Whether its transactions may read only, those of the user who may do everything too: a transaction that does not ask for
    /// more cannot write. As on a replica, but a client that asks for `READ WRITE` gets that.
    pub async fn read_only(&self, so: bool) -> Result<()> {
        let change =
            if so { "SET default_transaction_read_only = on" } else { "RESET default_transaction_read_only" };
        self.run(&format!("ALTER SYSTEM {change}")).await?;
        self.reload().await
    }

    /// How many clients may be connected at once; no limit with `None`. It holds for those who come from now on, and not for the
    /// user who may do everything.
    pub async fn limit_connections(&self, limit: Option<u32>) -> Result<()> {
        let limit = limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
        self.run(&format!("ALTER DATABASE {DATABASE} CONNECTION LIMIT {limit}")).await.map(drop)
    }

    /// Has it read its files again, and waits until it has.
    pub(super) async fn reload(&self) -> Result<()> {
        let loaded = "SELECT extract(epoch FROM pg_conf_load_time())";
        let before = self.run(loaded).await?;
        self.run("SELECT pg_reload_conf()").await?;
        let what = format!("{} reads its configuration", self.address());
        until(&what, async || Ok((self.run(loaded).await? != before).then_some(()))).await
    }

    pub(super) async fn number(&self, sql: &str) -> Result<usize> {
        let said = self.run(sql).await?;
        said.parse().map_err(|error| Error::unavailable(format!("{said:?} is no number")).caused_by(error))
    }

    pub(super) fn login(&self) -> Login<'_> {
        Login {
            host: self.socket_directory().as_os_str(),
            port: self.port(),
            user: self.user_name(),
            password: self.password(),
            database: DATABASE,
        }
    }
}

/// A name in a statement, whatever is in it.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in a statement, whatever is in it.
pub(super) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
