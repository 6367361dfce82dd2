//! [`Login`]: who asks a server that speaks PostgreSQL's protocol, and where. It asks by `psql`.

use std::ffi::OsStr;
use std::time::Duration;

use lock_core::{Error, ErrorKind, Result};
use tokio::process::Command;

use super::postgres_programs::{program, run};

/// For how long statements may go unanswered.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands between two columns, and between two rows: what is in no name and no number.
const COLUMN: char = '\u{1f}';
const ROW: char = '\u{1e}';

/// Of the test's own environment: these would lead somewhere else.
const OTHERS: [&str; 5] = ["PGOPTIONS", "PGSERVICE", "PGHOSTADDR", "PGSSLMODE", "PGTARGETSESSIONATTRS"];

/// A user of a database.
pub(super) struct Login<'a> {
    /// An address, or the directory of a Unix socket.
    pub(super) host: &'a OsStr,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) database: &'a str,
}

impl Login<'_> {
    /// What statements say, up to the first that fails: a line for each row, with `|` between columns.
    pub(super) async fn run(&self, sql: &str) -> Result<String> {
        self.ask(&[], sql).await.map(|said| said.trim_end_matches('\n').to_owned())
    }

    /// The rows of one statement.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let said = self.ask(&["-F", &COLUMN.to_string(), "-R", &ROW.to_string()], sql).await?;
        let said = said.strip_suffix('\n').unwrap_or(&said);
        if said.is_empty() {
            return Ok(Vec::new());
        }
        Ok(said.split(ROW).map(|row| row.split(COLUMN).map(str::to_owned).collect()).collect())
    }

    /// Has a program of PostgreSQL go by it: the password by the environment, as everybody can read a command line.
    pub(super) fn leads(&self, command: &mut Command) {
        for other in OTHERS {
            command.env_remove(other);
        }
        command
            .env("PGHOST", self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", self.user)
            .env("PGPASSWORD", self.password)
            .env("PGDATABASE", self.database)
            .env("PGCLIENTENCODING", "UTF8");
    }

    /// A password may be in a statement too, so that comes by standard input.
    async fn ask(&self, arguments: &[&str], sql: &str) -> Result<String> {
        let mut command = Command::new(program("psql")?);
        command.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-f", "-"]).args(arguments);
        self.leads(&mut command);
        let output = run(command, sql, PATIENCE).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // It says 3 for a statement, 2 for a connection.
        let kind = match output.status.code() {
            Some(3) => ErrorKind::InvalidInput,
            _ => ErrorKind::Unavailable,
        };
        Err(Error::new(kind, String::from_utf8_lossy(&output.stderr).trim()))
    }
}
