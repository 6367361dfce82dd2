//! [`Redis`]: one standalone `redis-server`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use tempfile::TempDir;

use super::island::Island;
use super::ports::Port;
use super::process::{Program, Server};
use super::redis_setup::RedisSetup;
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

    /// Its URL, without the password: `redis://ADDRESS:PORT`, or `rediss://ADDRESS:PORT` where it speaks TLS.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address())
    }

    /// Its Unix socket, which never speaks TLS.
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
        let asked = self.ask(&words);
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

    /// One that is to be launched.
    pub(super) fn prepared(setup: RedisSetup, port: Port) -> Result<Redis> {
        let directory = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir()
            .map_err(|error| Error::unavailable("no directory for a server").caused_by(error))?;
        let socket = directory.path().join("redis.sock");
        Ok(Redis { setup, server: Mutex::new(None), directory, socket, port })
    }

    pub(super) fn setup(&self) -> &RedisSetup {
        &self.setup
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
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

    pub(super) async fn launch(&self) -> Result<()> {
        let file = self
            .setup
            .configure(self)
            .map_err(|error| Error::unavailable("cannot write redis.conf").caused_by(error))?;
        let mut program = Program::new(&self.setup.program, self.directory())
            .package(self.setup.package())
            .arguments([file.to_string_lossy()])
            .arguments(&self.setup.arguments)
            .environment(self.setup.wall_clock.iter().flat_map(WallClock::environment))
            .environment(self.setup.environment.iter().map(|(key, value)| (key, value)));
        if let Some(island) = &self.setup.island {
            program = program.on(island);
        }
        let ready = || async move {
            // An error may be `LOADING`: it still reads what it had written.
            match self.ask(&["PING"]).await? {
                Reply::Text(pong) => Ok(pong == "PONG"),
                Reply::Error(error) => Err(Error::unavailable(error)),
                _ => Ok(false),
            }
        };
        let server = program.start(ready).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    /// Where it speaks TLS, over its Unix socket: that one is always plain, and it listens on both or on none.
    async fn ask(&self, words: &[&str]) -> Result<Reply> {
        let mut connection = match self.setup.tls {
            Some(_) => Connection::open_socket(&self.socket).await?,
            None => Connection::open(self.endpoint()).await?,
        };
        if let Some(password) = self.setup.password.as_deref() {
            if let Reply::Error(error) = connection.ask(&["AUTH", password]).await? {
                return Ok(Reply::Error(error));
            }
        }
        connection.ask(words).await
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
