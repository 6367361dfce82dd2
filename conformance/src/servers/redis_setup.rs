//! [`RedisSetup`]: how a [`Redis`] is to be started, and the configuration that comes of it.

use std::fmt::{self, Write};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use lock_core::Result;

use super::account::Account;
use super::island::Island;
use super::ports::{free_port, on_free_ports};
use super::redis::Redis;
use super::tls::Tls;
use super::wall_clock::WallClock;

/// How a Redis server is to be started.
#[derive(Clone)]
pub struct RedisSetup {
    pub(super) program: String,
    pub(super) persistent: bool,
    pub(super) password: Option<String>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Kept: a server that is started again needs its files.
    pub(super) wall_clock: Option<WallClock>,
    pub(super) island: Option<Island>,
    pub(super) tls: Option<Tls>,
    pub(super) replicas: Option<Account>,
    pub(super) replica_of: Option<SocketAddr>,
    /// What nobody else may read, so that it cannot be an argument.
    pub(super) lines: String,
}

impl RedisSetup {
    /// In memory only, without a password.
    pub fn new() -> RedisSetup {
        RedisSetup {
            program: "redis-server".to_owned(),
            persistent: false,
            password: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            wall_clock: None,
            island: None,
            tls: None,
            replicas: None,
            replica_of: None,
            lines: String::new(),
        }
    }

    /// Everything that is acknowledged has been written to the disk.
    #[must_use]
    pub fn persistent(mut self) -> RedisSetup {
        self.persistent = true;
        self
    }

    /// A password that clients have to give.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> RedisSetup {
        self.password = Some(password.into());
        self
    }

    /// Adds arguments to its command line: `["--maxmemory", "1mb"]`.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> RedisSetup {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, key: impl Into<String>, value: impl Into<String>) -> RedisSetup {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Shows it this wall clock instead of the machine's.
    #[must_use]
    pub fn wall_clock(mut self, wall: &WallClock) -> RedisSetup {
        self.wall_clock = Some(wall.clone());
        self
    }

    /// Has it listen on this island. Its Unix socket is not cut with it.
    #[must_use]
    pub fn on(mut self, island: &Island) -> RedisSetup {
        self.island = Some(island.clone());
        self
    }

    /// Has it speak TLS on its port, and nothing else there.
    #[must_use]
    pub fn tls(mut self, tls: &Tls) -> RedisSetup {
        self.tls = Some(tls.clone());
        self
    }

    /// Another program than `redis-server` that takes the same configuration.
    #[must_use]
    pub fn program(mut self, program: impl Into<String>) -> RedisSetup {
        self.program = program.into();
        self
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Errors
    /// There is no such program, or it does not start; the message has its last words.
    pub async fn start(self) -> Result<Redis> {
        on_free_ports(async || {
            let redis = Redis::prepared(self.clone(), free_port()?)?;
            redis.launch().await?;
            Ok(redis)
        })
        .await
    }

    /// In a file that only this user reads: everybody can read a command line.
    pub(super) fn configure(&self, redis: &Redis) -> std::io::Result<PathBuf> {
        let directory = redis.directory();
        let file = directory.join("redis.conf");
        let mut lines = format!(
            "bind {}\nunixsocket {}\ndir {}\ndaemonize no\nsave \"\"\n",
            redis.endpoint().ip(),
            quoted(&redis.socket().to_string_lossy()),
            quoted(&directory.to_string_lossy()),
        );
        lines += &self.ports(redis.port());
        lines += &self.replication();
        lines += &self.lines;
        lines += if self.persistent { "appendonly yes\nappendfsync always\n" } else { "appendonly no\n" };
        if self.island.is_some() {
            // Otherwise it talks to nobody from elsewhere without a password.
            lines += "protected-mode no\n";
        }
        if let Some(password) = &self.password {
            lines += &format!("requirepass {}\n", quoted(password));
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&file)?.write_all(lines.as_bytes())?;
        Ok(file)
    }

    /// Where its program comes from.
    pub(super) fn package(&self) -> &'static str {
        if self.program == "redis-sentinel" { "redis-sentinel" } else { "redis-server" }
    }

    /// Whom it lets in on its port, and how it calls others.
    fn ports(&self, port: u16) -> String {
        let Some(tls) = &self.tls else { return format!("port {port}\n") };
        let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
        format!(
            "port 0\ntls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
             tls-auth-clients {}\ntls-replication yes\ntls-cluster yes\n",
            path(tls.certificate.certificate()),
            path(tls.certificate.key()),
            path(&tls.authority),
            tls.clients.word(),
        )
    }
}

impl Default for RedisSetup {
    fn default() -> RedisSetup {
        RedisSetup::new()
    }
}

impl fmt::Debug for RedisSetup {
    /// Without the password, and without the environment, where another one may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSetup")
            .field("program", &self.program)
            .field("persistent", &self.persistent)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

/// A string of Redis's configuration, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                quoted.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(quoted, "\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}
