//! [`ZooKeeper`]: one ZooKeeper server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Error, ErrorKind, Result, SystemClock, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hanging_up::hang_up;
use super::island::Island;
use super::ports::{Port, free_port};
use super::process::Server;
use super::zookeeper_setup::ZooKeeperSetup;

/// For how long a question may go unanswered.
const PATIENCE: Duration = Duration::from_secs(5);

/// A ZooKeeper server of a test's own. Ends when it is dropped.
#[derive(Debug)]
pub struct ZooKeeper {
    /// Dropped first: the directory and the port are the server's until it has ended.
    server: Mutex<Option<Arc<Server>>>,
    setup: ZooKeeperSetup,
    directory: TempDir,
    port: Port,
    /// Of a server whose port is for TLS: where it is asked.
    plain: Option<Port>,
    /// Where the others of its ensemble hear it.
    _peers: Option<[Port; 2]>,
}

impl ZooKeeper {
    /// A server without accounts.
    pub async fn start() -> Result<ZooKeeper> {
        ZooKeeperSetup::new().start().await
    }

    /// Its address for clients: `127.0.0.1:PORT`, unless it is on an island.
    pub fn address(&self) -> String {
        self.endpoint().to_string()
    }

    /// Its port for clients, the same after another start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its directory: the log, and the data.
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

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.server()?.kill().await?;
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
        self.forget()?;
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

    /// What it answers to a word of four letters, such as `srvr`, `cons` or `wchp`.
    ///
    /// # Errors
    /// No answer within five seconds.
    pub async fn asked(&self, word: &str) -> Result<String> {
        let clock = SystemClock::new();
        let asked = within(&clock, PATIENCE, async {
            let mut stream = TcpStream::connect(self.plain()).await?;
            stream.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        });
        match asked.await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(Error::unavailable(format!("no answer to {word}")).caused_by(error)),
            None => Err(Error::new(ErrorKind::TimedOut, format!("no answer to {word} within {PATIENCE:?}"))),
        }
        .map_err(|error| error.at(self.address()))
    }

    /// Ends the connections of all its clients, as it would do itself. Returns how many those were.
    pub fn disconnect(&self) -> Result<usize> {
        hang_up(self.server()?.pid(), self.port())
    }

    /// How it serves: `leader`, `follower` or `standalone`.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn mode(&self) -> Result<String> {
        let answer = self.asked("srvr").await?;
        let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
        mode.map(str::to_owned)
            .ok_or_else(|| Error::unavailable(format!("it does not serve: {}", answer.trim())))
    }

    /// One of the numbers that it has of itself: `zk_watch_count`.
    ///
    /// # Errors
    /// There is no such number, or it does not serve.
    pub async fn number(&self, name: &str) -> Result<u64> {
        let answer = self.asked("mntr").await?;
        let number = answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        number
            .map(|number| number as u64)
            .ok_or_else(|| Error::unavailable(format!("there is no {name} in {answer:?}")))
    }

    /// In what steps it looks who is still there. The shortest session is two of them.
    pub fn tick(&self) -> Duration {
        self.setup.tick_time()
    }

    /// Removes its data.
    pub(super) fn forget(&self) -> Result<()> {
        self.has_to_be_down()?;
        match std::fs::remove_dir_all(self.directory().join("data")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::unavailable("cannot remove the data").caused_by(error))
            }
            _ => Ok(()),
        }
    }

    /// One that is to be launched.
    pub(super) fn prepared(setup: ZooKeeperSetup, port: Port, peers: Option<[Port; 2]>) -> Result<ZooKeeper> {
        let directory = tempfile::Builder::new()
            .prefix("zookeeper-")
            .tempdir()
            .map_err(|error| Error::unavailable("no directory for a server").caused_by(error))?;
        let plain = if setup.has_tls() { Some(free_port()?) } else { None };
        Ok(ZooKeeper { server: Mutex::new(None), setup, directory, port, plain, _peers: peers })
    }

    /// Returns once it says in which mode it serves.
    pub(super) async fn launch(&self) -> Result<()> {
        self.setup.configure(self)?;
        let program = self.setup.program_of(self);
        let server = program.start(async || self.is_ready().await).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    /// With TLS it opens its port for that later than the other one.
    async fn is_ready(&self) -> Result<bool> {
        self.mode().await?;
        Ok(self.plain.is_none() || TcpStream::connect(self.endpoint()).await.is_ok())
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        let island = self.setup.island.as_ref();
        (island.map_or(Ipv4Addr::LOCALHOST.into(), Island::address), self.port()).into()
    }

    /// Where it takes what is not encrypted.
    pub(super) fn plain(&self) -> SocketAddr {
        let port = self.plain.as_ref().unwrap_or(&self.port).number();
        (self.endpoint().ip(), port).into()
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

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
