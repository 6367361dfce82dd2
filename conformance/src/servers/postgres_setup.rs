//! [`PostgresSetup`]: how a [`Postgres`] is to be started, and the configuration that comes of it.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use lock_core::{Error, Result};

use super::island::Island;
use super::ports::{free_port, on_free_ports};
use super::postgres::Postgres;
use super::postgres_replicas::Primary;
use super::postgres_template::{Template, write};
use super::tls::{ClientCertificates, Tls};
use super::wall_clock::WallClock;

/// How a PostgreSQL server is to be started.
///
/// It takes an installed PostgreSQL, of Debian's package `postgresql` or on the path, and no account of its own: where the test
/// is root, the server runs as `postgres` or `nobody`, as it refuses to run as root.
#[derive(Clone)]
pub struct PostgresSetup {
    durable: bool,
    settings: Vec<(String, String)>,
    pub(super) environment: Vec<(String, String)>,
    /// Kept: a server that is started again needs its files.
    pub(super) wall_clock: Option<WallClock>,
    pub(super) island: Option<Island>,
    pub(super) tls: Option<Tls>,
    also_plain: bool,
    pub(super) replica_of: Option<Primary>,
    pub(super) statements: Vec<String>,
}

impl PostgresSetup {
    /// One server. What it acknowledges survives a kill, though not the end of the machine: it does not wait for the disk.
    pub fn new() -> PostgresSetup {
        PostgresSetup {
            durable: false,
            settings: Vec::new(),
            environment: Vec::new(),
            wall_clock: None,
            island: None,
            tls: None,
            also_plain: false,
            replica_of: None,
            statements: Vec::new(),
        }
    }

    /// Everything that is acknowledged has been written to the disk.
    #[must_use]
    pub fn durable(mut self) -> PostgresSetup {
        self.durable = true;
        self
    }

    /// A setting, as it stands in `postgresql.conf`: `("max_connections", "20")`. The last one of a name counts.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> PostgresSetup {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// What is in its database from the beginning, before anybody can reach it: a statement of one line, run by the user who may do
    /// everything. A server that starts again empty has it as well.
    #[must_use]
    pub fn statement(mut self, sql: impl Into<String>) -> PostgresSetup {
        self.statements.push(sql.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, key: impl Into<String>, value: impl Into<String>) -> PostgresSetup {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Shows it this wall clock instead of the machine's.
    #[must_use]
    pub fn wall_clock(mut self, wall: &WallClock) -> PostgresSetup {
        self.wall_clock = Some(wall.clone());
        self
    }

    /// Has it listen on this island. Its Unix socket is not cut with it.
    #[must_use]
    pub fn on(mut self, island: &Island) -> PostgresSetup {
        self.island = Some(island.clone());
        self
    }

    /// Has it speak TLS on its port, and let nobody in there who does not. Its Unix socket never speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: &Tls) -> PostgresSetup {
        self.tls = Some(tls.clone());
        self
    }

    /// Lets also those in who do not speak TLS, where it does. They show no certificate either.
    #[must_use]
    pub fn also_plain(mut self) -> PostgresSetup {
        self.also_plain = true;
        self
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or it does not start; the message has its last words.
    pub async fn start(self) -> Result<Postgres> {
        let template = Template::of_this_process().await?;
        on_free_ports(async || {
            let postgres = Postgres::prepared(self.clone(), template, free_port()?)?;
            postgres.has_new_data().await?;
            postgres.launch().await?;
            Ok(postgres)
        })
        .await
    }

    /// Writes all of its configuration.
    pub(super) fn configure(&self, postgres: &Postgres) -> Result<()> {
        let user = postgres.user();
        if let Some(tls) = &self.tls {
            // Those of the setup are this process's alone.
            for (from, to) in [
                (tls.certificate.certificate(), "server.crt"),
                (tls.certificate.key(), "server.key"),
                (&tls.authority, "authority.crt"),
            ] {
                let content = std::fs::read(from).map_err(|error| {
                    Error::unavailable(format!("cannot read {}", from.display())).caused_by(error)
                })?;
                write(user, &postgres.data().join(to), &content)?;
            }
        }
        let lines = self.lines(postgres.endpoint(), postgres.directory());
        write(user, &postgres.data().join("postgresql.conf"), lines.as_bytes())?;
        self.admit(postgres, true)
    }

    /// Writes whom it lets in, with its replicas or without them.
    pub(super) fn admit(&self, postgres: &Postgres, replicas: bool) -> Result<()> {
        let mut lines = String::new();
        if !replicas {
            lines += "local replication all reject\nhost replication all all reject\n";
        }
        lines += "local all,replication all scram-sha-256\n";
        if let Some(tls) = &self.tls {
            let certificate = match tls.clients {
                ClientCertificates::Required => " clientcert=verify-ca",
                ClientCertificates::Unasked | ClientCertificates::Optional => "",
            };
            lines += &format!("hostssl all,replication all all scram-sha-256{certificate}\n");
        }
        if self.tls.is_none() || self.also_plain {
            lines += "hostnossl all,replication all all scram-sha-256\n";
        }
        write(postgres.user(), &postgres.data().join("pg_hba.conf"), lines.as_bytes())
    }

    fn lines(&self, endpoint: SocketAddr, directory: &Path) -> String {
        let (address, port) = (endpoint.ip().to_string(), endpoint.port().to_string());
        let sockets = directory.to_string_lossy();
        let durable = if self.durable { "on" } else { "off" };
        let mut lines = String::new();
        for (name, value) in [
            ("listen_addresses", &*address),
            ("port", &port),
            ("unix_socket_directories", &sockets),
            ("max_connections", "100"),
            ("fsync", durable),
            ("full_page_writes", durable),
            ("shared_buffers", "32MB"),
            // With the data, so that they go with it, also after a kill.
            ("dynamic_shared_memory_type", "mmap"),
            // `initdb` has made small segments; there are to be no more checkpoints for that.
            ("max_wal_size", "1GB"),
            // For replicas that come back.
            ("wal_keep_size", "256MB"),
            ("lc_messages", "C"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ] {
            set(&mut lines, name, value);
        }
        if let Some(tls) = &self.tls {
            set(&mut lines, "ssl", "on");
            if tls.clients != ClientCertificates::Unasked {
                set(&mut lines, "ssl_ca_file", "authority.crt");
            }
        }
        if let Some(primary) = &self.replica_of {
            set(&mut lines, "primary_conninfo", &primary.connection(directory));
            // Otherwise it waits for five seconds before it comes back, and says every ten how far it is.
            set(&mut lines, "wal_retrieve_retry_interval", "100ms");
            set(&mut lines, "wal_receiver_status_interval", "1s");
        }
        for (name, value) in &self.settings {
            set(&mut lines, name, value);
        }
        lines
    }
}

/// A line of the configuration, whatever is in the value.
fn set(lines: &mut String, name: &str, value: &str) {
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "{name} = '{value}'");
}

impl Default for PostgresSetup {
    fn default() -> PostgresSetup {
        PostgresSetup::new()
    }
}

impl fmt::Debug for PostgresSetup {
    /// Without the environment and the settings, where a password may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSetup")
            .field("durable", &self.durable)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
