//! [`Redis`]: one standalone `redis-server`.

use std::fmt::{self, Write};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use tempfile::TempDir;

use super::island::Island;
use super::ports::{Port, free_port};
use super::process::{Program, Server};
use super::resp::{Connection, Reply};
use super::wall_clock::WallClock;

/// For how long a command may go unanswered.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Redis server of a test's own. Ends when it is dropped.
#[derive(Debug)]
pub struct Redis {
    /// Dropped first: the directory, the port and what the setup keeps are the server's until it has ended.
    server: Mutex<Option<Arc<Server>>>,
    setup: RedisSetup,
    directory: TempDir,
    socket: PathBuf,
    port: Port,
}

/// How a Redis server is to be started.
#[derive(Clone)]
pub struct RedisSetup {
    program: String,
    persistent: bool,
    password: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Kept: a server that is started again needs its files.
    wall_clock: Option<WallClock>,
    island: Option<Island>,
}

impl Redis {
    /// A server that keeps its data in memory only.
    pub async fn start() -> Result<Redis> {
        RedisSetup::new().start().await
    }

    /// Its address: `127.0.0.1:PORT`, unless it is on an island.
    pub fn address(&self) -> String {
        self.endpoint().to_string()
    }

    /// Its port, the same after another start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its URL, without the password: `redis://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its directory: the configuration, the log, and the data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    ///
    /// # Errors
    /// It has been ended.
    pub fn server(&self) -> Result<Arc<Server>> {
        self.running().clone().ok_or_else(|| Error::unavailable("the server has been ended: start it again"))
    }

    /// Sends one command over a connection of its own, after the password if there is one.
    ///
    /// # Errors
    /// No connection, or no answer within five seconds. An error reply is not an error here: [`Reply::Error`].
    pub async fn command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<Reply> {
        let words: Vec<_> = words.into_iter().collect();
        let asked = ask(self.endpoint(), self.setup.password.as_deref(), &words);
        tokio::select! {
            biased;
            reply = asked => reply.map_err(|error| error.at(self.address())),
            () = SystemClock::new().sleep(PATIENCE) => {
                let message = format!("no reply to {} within {PATIENCE:?}", words.first().unwrap_or(&"nothing"));
                Err(Error::new(ErrorKind::TimedOut, message).at(self.address()))
            }
        }
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

    /// Starts it again after its end, at the same port, with what it has written.
    pub async fn start_again(&self) -> Result<()> {
        self.has_to_be_down()?;
        self.launch().await
    }

    /// Starts it again after its end, at the same port, without any data.
    pub async fn start_again_empty(&self) -> Result<()> {
        self.has_to_be_down()?;
        empty(self.directory())
            .map_err(|error| Error::unavailable("cannot remove the data").caused_by(error))?;
        self.launch().await
    }

    /// Stops it as `kill -STOP` does: its connections stay open, and nobody answers.
    pub fn stop(&self) -> Result<()> {
        self.server()?.stop()
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        self.server()?.go_on()
    }

    fn endpoint(&self) -> SocketAddr {
        let island = self.setup.island.as_ref();
        (island.map_or(Ipv4Addr::LOCALHOST.into(), Island::address), self.port()).into()
    }

    /// One that crashed by itself is down, too.
    fn has_to_be_down(&self) -> Result<()> {
        match &*self.running() {
            Some(server) if !server.has_ended()? => {
                Err(Error::invalid("the server still runs: end it first"))
            }
            _ => Ok(()),
        }
    }

    async fn launch(&self) -> Result<()> {
        let file = self
            .configure()
            .map_err(|error| Error::unavailable("cannot write redis.conf").caused_by(error))?;
        let mut program = Program::new(&self.setup.program, self.directory())
            .package("redis-server")
            .arguments([file.to_string_lossy()])
            .arguments(&self.setup.arguments)
            .environment(self.setup.wall_clock.iter().flat_map(WallClock::environment))
            .environment(self.setup.environment.iter().map(|(key, value)| (key, value)));
        if let Some(island) = &self.setup.island {
            program = program.on(island);
        }
        let endpoint = self.endpoint();
        let ready = || async move {
            // An error may be `LOADING`: it still reads what it had written.
            match ask(endpoint, self.setup.password.as_deref(), &["PING"]).await? {
                Reply::Text(pong) => Ok(pong == "PONG"),
                Reply::Error(error) => Err(Error::unavailable(error)),
                _ => Ok(false),
            }
        };
        let server = program.start(ready).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    /// In a file that only this user reads: everybody can read a command line.
    fn configure(&self) -> std::io::Result<PathBuf> {
        let directory = self.directory();
        let file = directory.join("redis.conf");
        let mut lines = format!(
            "port {}\nbind {}\nunixsocket {}\ndir {}\ndaemonize no\nsave \"\"\n",
            self.port(),
            self.endpoint().ip(),
            quoted(&self.socket.to_string_lossy()),
            quoted(&directory.to_string_lossy()),
        );
        lines +=
            if self.setup.persistent { "appendonly yes\nappendfsync always\n" } else { "appendonly no\n" };
        if self.setup.island.is_some() {
            // Otherwise it talks to nobody from elsewhere without a password.
            lines += "protected-mode no\n";
        }
        if let Some(password) = &self.setup.password {
            lines += &format!("requirepass {}\n", quoted(password));
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&file)?.write_all(lines.as_bytes())?;
        Ok(file)
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        const ATTEMPTS: usize = 4;
        let mut attempt = 1;
        loop {
            let redis = self.prepared()?;
            match redis.launch().await {
                Ok(()) => return Ok(redis),
                // Somebody else's server was faster.
                Err(error) if attempt < ATTEMPTS && error.message().contains("already in use") => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn prepared(&self) -> Result<Redis> {
        let directory = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir()
            .map_err(|error| Error::unavailable("no directory for a server").caused_by(error))?;
        let socket = directory.path().join("redis.sock");
        Ok(Redis { setup: self.clone(), server: Mutex::new(None), directory, socket, port: free_port()? })
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

async fn ask(server: SocketAddr, password: Option<&str>, words: &[&str]) -> Result<Reply> {
    let mut connection = Connection::open(server).await?;
    if let Some(password) = password {
        if let Reply::Error(error) = connection.ask(&["AUTH", password]).await? {
            return Ok(Reply::Error(error));
        }
    }
    connection.ask(words).await
}

/// A string of Redis's configuration, whatever is in it.
fn quoted(text: &str) -> String {
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

/// Removes whatever is in a directory.
fn empty(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
