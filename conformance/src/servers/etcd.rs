//! [`Etcd`]: one `etcd` server, alone or a member of a cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::etcd_gateway::ask;
use super::etcd_setup::EtcdSetup;
use super::hanging_up::hang_up;
use super::island::Island;
use super::ports::Port;
use super::process::Server;

/// For how long a call may go unanswered.
const PATIENCE: Duration = Duration::from_secs(5);

/// An etcd server of a test's own. Ends when it is dropped.
///
/// What can be asked of it is in the second half: [`call`](Etcd::call) and what is made of it. It goes by its own clock, which
/// no wall clock moves, so there is no [`WallClock`](super::WallClock) for it.
#[derive(Debug)]
pub struct Etcd {
    /// Dropped first: the directory, the ports and what the setup keeps are the server's until it has ended.
    server: Mutex<Option<Arc<Server>>>,
    pub(super) setup: EtcdSetup,
    directory: TempDir,
    socket: PathBuf,
    port: Port,
    peer: Port,
    /// What stands for the password until the server forgets it.
    token: Mutex<Option<String>>,
}

impl Etcd {
    /// In its directory; etcd wants a port, and makes it part of the name.
    pub(super) const SOCKET: &str = "etcd.sock:0";

    /// A server without accounts.
    pub async fn start() -> Result<Etcd> {
        EtcdSetup::new().start().await
    }

    /// Its address for clients: `127.0.0.1:PORT`, unless it is on an island.
    pub fn address(&self) -> String {
        self.endpoint().to_string()
    }

    /// Its port for clients, the same after another start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its port for the other members, on 127.0.0.1.
    pub fn peer_port(&self) -> u16 {
        self.peer.number()
    }

    /// Its URL: `http://ADDRESS:PORT`, or `https://ADDRESS:PORT` where it speaks TLS.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Its directory: the log, and the data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The shortest TTL that it grants: whoever asks for less gets this.
    pub fn minimum_ttl(&self) -> Duration {
        self.setup.minimum_ttl()
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

    /// Ends it in an orderly way, and waits until it is gone. One that is stopped does not hear it.
    pub async fn shut_down(&self) -> Result<()> {
        self.server()?.terminate().await?;
        self.running().take();
        Ok(())
    }

    /// Starts it again after its end, at the same port, with what it has written. Every lease begins anew then. A member of a
    /// cluster answers once most members are there.
    pub async fn start_again(&self) -> Result<()> {
        self.has_to_be_down()?;
        self.launch().await
    }

    /// Starts it again after its end, at the same port, without any data; with the root account, if it had one.
    ///
    /// # Errors
    /// It is a member of a cluster: that would take back what it has promised to the others. A cluster starts again as a
    /// [whole](super::EtcdCluster::start_again_empty).
    pub async fn start_again_empty(&self) -> Result<()> {
        if self.setup.place.is_some() {
            return Err(Error::invalid(
                "a member without its data breaks its cluster: empty the whole cluster",
            ));
        }
        self.forget()?;
        self.launch().await?;
        self.secure().await
    }

    /// Stops it as `kill -STOP` does, and waits until it stands still: its connections stay open, and nobody answers.
    pub async fn stop(&self) -> Result<()> {
        self.server()?.comes_to_a_stand().await
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        self.server()?.go_on()
    }

    /// Ends the connections of all its clients, and returns how many those were; its HTTP gateway is a client too. etcd has no
    /// command for it, so it is done to its sockets: clients see their ends as if etcd had closed them.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the system does not let a test at its server's sockets.
    pub fn disconnect(&self) -> Result<usize> {
        hang_up(self.server()?.pid(), self.port())
    }

    /// Calls a method of etcd's HTTP gateway, as root if there are accounts: `call("/v3/lease/grant", &json!({"TTL": 1}))`.
    /// There, keys and values are Base64.
    ///
    /// # Errors
    /// No answer within five seconds, or a refusal, which has etcd's words.
    pub async fn call(&self, method: &str, request: &Value) -> Result<Value> {
        let once = async || {
            let token = self.token().await?;
            ask(&self.socket, method, request, token.as_deref()).await
        };
        let asked = async {
            match once().await {
                Err(error) if *error.kind() == ErrorKind::Denied && self.known_token().take().is_some() => {
                    once().await
                }
                answer => answer,
            }
        };
        self.in_time(PATIENCE, method, asked).await
    }

    /// The same without an account, for what everybody may ask.
    pub(super) async fn call_as_nobody(
        &self,
        patience: Duration,
        method: &str,
        request: &Value,
    ) -> Result<Value> {
        self.in_time(patience, method, ask(&self.socket, method, request, None)).await
    }

    async fn in_time(
        &self,
        patience: Duration,
        method: &str,
        asked: impl Future<Output = Result<Value>>,
    ) -> Result<Value> {
        tokio::select! {
            biased;
            answer = asked => answer.map_err(|error| error.at(self.address())),
            () = SystemClock::new().sleep(patience) => {
                let message = format!("no answer to {method} within {patience:?}");
                Err(Error::new(ErrorKind::TimedOut, message).at(self.address()))
            }
        }
    }

    /// What stands for root's password, if there are accounts.
    async fn token(&self) -> Result<Option<String>> {
        let Some(password) = self.setup.password.as_deref() else { return Ok(None) };
        if let Some(token) = self.known_token().clone() {
            return Ok(Some(token));
        }
        let root = json!({ "name": ROOT, "password": password });
        match ask(&self.socket, "/v3/auth/authenticate", &root, None).await {
            Ok(answer) => {
                let token = answer["token"].as_str().map(str::to_owned);
                self.known_token().clone_from(&token);
                Ok(token)
            }
            Err(error) if error.message().contains("authentication is not enabled") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One that is to be launched.
    pub(super) fn prepared(setup: EtcdSetup, port: Port, peer: Port) -> Result<Etcd> {
        let directory = tempfile::Builder::new()
            .prefix("etcd-")
            .tempdir()
            .map_err(|error| Error::unavailable("no directory for a server").caused_by(error))?;
        let socket = directory.path().join(Etcd::SOCKET);
        Ok(Etcd { server: Mutex::new(None), setup, directory, socket, port, peer, token: Mutex::new(None) })
    }

    /// Returns once it answers a question that takes most members.
    pub(super) async fn launch(&self) -> Result<()> {
        let program = self.setup.program_of(self)?;
        // Of its life before. Without its data it would wait for the days in which it gave that out.
        self.known_token().take();
        // One that was killed has left it there, and etcd does not remove it; mostly there is none.
        let _ = std::fs::remove_file(&self.socket);
        let server = program.start(async || self.get("a").await.map(|_| true)).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    /// Whether it has written anything: it knows by then who it is.
    pub(super) fn has_begun(&self) -> bool {
        self.directory().join("data/member/wal").exists()
    }

    /// Gives it its root account, unless it has that already.
    pub(super) async fn secure(&self) -> Result<()> {
        let Some(password) = &self.setup.password else { return Ok(()) };
        if self.token().await?.is_some() {
            return Ok(());
        }
        self.call("/v3/auth/user/add", &json!({ "name": ROOT, "password": password })).await?;
        self.call("/v3/auth/role/add", &json!({ "name": ROOT })).await?;
        self.call("/v3/auth/user/grant", &json!({ "user": ROOT, "role": ROOT })).await?;
        self.call("/v3/auth/enable", &json!({})).await.map(drop)
    }

    /// Removes what it has written; it has to be down.
    pub(super) fn forget(&self) -> Result<()> {
        self.has_to_be_down()?;
        match std::fs::remove_dir_all(self.directory().join("data")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::unavailable("cannot remove the data").caused_by(error))
            }
            _ => Ok(()),
        }
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

    fn endpoint(&self) -> SocketAddr {
        let island = self.setup.island.as_ref();
        (island.map_or(Ipv4Addr::LOCALHOST.into(), Island::address), self.port()).into()
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_token(&self) -> MutexGuard<'_, Option<String>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may do everything.
const ROOT: &str = "root";
