//! [`Proxy`]: the network between a client and a server, and what can go wrong with it.
//!
//! ```no_run
//! # async fn example() -> lock_core::Result<()> {
//! use lock_conformance::proxy::{Proxy, Way};
//!
//! let network = Proxy::to("127.0.0.1:6379").await?;
//! // … a client connects to network.address() …
//! network.block(Way::Both);
//! // … and loses its lease …
//! network.heal();
//! # Ok(())
//! # }
//! ```

mod connection;
mod lane;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Clock, Error, Result, SystemClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A TCP proxy to one server. Clones are the same proxy; it ends with the last of them, and its connections with it.
#[derive(Clone)]
pub struct Proxy(Arc<Owner>);

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From clients to the server: requests.
    ToServer,
    /// From the server to clients: replies.
    ToClient,
    /// Either.
    Both,
}

/// What a proxy has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that it accepted, the refused ones left out.
    pub connections: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Bytes that it sent to the server.
    pub to_server: u64,
    /// Bytes that it sent to clients.
    pub to_client: u64,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, and connects whoever comes to this server: `127.0.0.1:6379`.
    ///
    /// A client whose connection the server refuses is reset.
    ///
    /// # Errors
    /// There is no port.
    pub async fn to(upstream: impl Into<String>) -> Result<Proxy> {
        let failed = |error| Error::unavailable("no port for a proxy").caused_by(error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let network = Arc::new(Network::to(upstream.into()));
        let task = tokio::spawn(listen(listener, network.clone()));
        Ok(Proxy(Arc::new(Owner { address, network, task: Mutex::new(Some(task)) })))
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.0.address.to_string()
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// Has everything arrive so much later, each way, also what is under way. It is the time of a wire, not of a queue:
    /// any number of messages are under way at once. Zero is none.
    pub fn delay(&self, each_way: Duration) {
        self.change(|rules| rules.delay = each_way);
    }

    /// Leads to another server: whoever connects from now on. Connections that there are stay where they are.
    pub fn lead_to(&self, upstream: impl Into<String>) {
        *self.0.network.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream.into();
    }

    /// Lets everything in this direction vanish, the end of a stream too, as a partition does. Connections stay open; what
    /// was blocked before stays blocked.
    ///
    /// A client that connects meanwhile believes that it succeeded, but the server hears nothing of it: no connection is
    /// made unless both directions work.
    pub fn block(&self, way: Way) {
        self.change(|rules| {
            rules.to_server_blocked |= way != Way::ToClient;
            rules.to_client_blocked |= way != Way::ToServer;
        });
    }

    /// Ends all blocks. What comes from now on arrives, except in a connection in which something has vanished: that is
    /// reset, for its stream has a hole.
    pub fn heal(&self) {
        self.change(|rules| {
            rules.to_server_blocked = false;
            rules.to_client_blocked = false;
            rules.heals += 1;
        });
    }

    /// Forwards in pieces of so many bytes, with a pause between two. A size of 0 ends that.
    pub fn slices(&self, size: usize, pause: Duration) {
        self.change(|rules| rules.slices = (size, pause));
    }

    /// Resets all connections that there are.
    pub fn reset_all(&self) {
        self.change(|rules| rules.resets += 1);
    }

    /// Shows the clients of all connections that there are the end of what the server sends. They can go on sending.
    pub fn half_close(&self) {
        self.change(|rules| rules.half_closes += 1);
    }

    /// Resets one connection: the one that sends the last of so many further bytes in this direction, once these have been
    /// forwarded. With 0 it is the next that sends anything.
    pub fn reset_after_bytes(&self, way: Way, bytes: u64) {
        let mut cuts = self.0.network.cuts();
        if way != Way::ToClient {
            cuts.to_server = Some(bytes);
        }
        if way != Way::ToServer {
            cuts.to_client = Some(bytes);
        }
    }

    /// Loses the reply to the next request: the request is forwarded, whatever the server sends from then on in that
    /// connection vanishes, and as soon as something has, the connection is reset.
    pub fn swallow_next_reply(&self) {
        self.0.network.swallow.store(true, Ordering::SeqCst);
    }

    /// Resets new connections at once, or no longer. Those that there are live on.
    pub fn refuse(&self, refuse: bool) {
        self.change(|rules| rules.refuse = refuse);
    }

    /// How many connections are open, on either side.
    pub fn connections(&self) -> usize {
        self.0.network.open.load(Ordering::SeqCst)
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        self.0.network.counts.read()
    }

    /// Shows whatever is forwarded from now on, before it arrives, piece by piece; the last one to call this watches. It
    /// is called by the connection's task, and must not block.
    pub fn watch(&self, tap: impl Fn(Way, &[u8]) + Send + Sync + 'static) {
        *self.0.network.tap.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tap));
    }

    /// Ends it: nobody listens any more, and all connections are closed when this returns.
    pub async fn close(&self) {
        self.change(|rules| rules.closed = true);
        let task = self.0.task().take();
        if let Some(task) = task {
            // It can only have been cancelled, with its runtime.
            let _ = task.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.0.network.rules.send_modify(change);
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.0.network;
        f.debug_struct("Proxy")
            .field("address", &self.0.address)
            .field("upstream", &network.upstream())
            .field("rules", &*network.rules.borrow())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// What all clones share.
struct Owner {
    address: SocketAddr,
    network: Arc<Network>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }
}

/// What the proxy and its tasks share.
struct Network {
    upstream: Mutex<String>,
    /// Every change wakes all who have to heed it.
    rules: watch::Sender<Rules>,
    cuts: Mutex<Cuts>,
    swallow: AtomicBool,
    tap: Mutex<Option<Arc<Tap>>>,
    open: AtomicUsize,
    counts: Counters,
}

type Tap = dyn Fn(Way, &[u8]) + Send + Sync;

/// How the network is. The numbers count how often something was to happen: a connection compares them with its start.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    delay: Duration,
    slices: (usize, Duration),
    to_server_blocked: bool,
    to_client_blocked: bool,
    refuse: bool,
    closed: bool,
    heals: u64,
    resets: u64,
    half_closes: u64,
}

/// After how many further bytes a connection is to be reset.
#[derive(Default)]
struct Cuts {
    to_server: Option<u64>,
    to_client: Option<u64>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    refused: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Network {
    fn to(upstream: String) -> Network {
        Network {
            upstream: Mutex::new(upstream),
            rules: watch::Sender::new(Rules::default()),
            cuts: Mutex::default(),
            swallow: AtomicBool::new(false),
            tap: Mutex::default(),
            open: AtomicUsize::new(0),
            counts: Counters::default(),
        }
    }

    fn cuts(&self) -> MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upstream(&self) -> String {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tap(&self) -> Option<Arc<Tap>> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Rules {
    fn is_blocked(&self, way: Way) -> bool {
        match way {
            Way::ToServer => self.to_server_blocked,
            Way::ToClient => self.to_client_blocked,
            Way::Both => self.to_server_blocked || self.to_client_blocked,
        }
    }
}

impl Counters {
    fn read(&self) -> Counts {
        Counts {
            connections: self.connections.load(Ordering::SeqCst),
            refused: self.refused.load(Ordering::SeqCst),
            to_server: self.to_server.load(Ordering::SeqCst),
            to_client: self.to_client.load(Ordering::SeqCst),
        }
    }
}

/// Accepts until it is closed. The connections' tasks are its own: they end with it.
async fn listen(listener: TcpListener, network: Arc<Network>) {
    let mut tasks = JoinSet::new();
    let mut rules = network.rules.subscribe();
    loop {
        tokio::select! {
            biased;
            () = closed(&mut rules) => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => welcome(&network, client, &mut tasks),
                // The client may be gone already, or this process has too many files open.
                Err(_) => SystemClock::new().sleep(Duration::from_millis(10)).await,
            }
        }
    }
    drop(listener);
    tasks.shutdown().await;
}

async fn closed(rules: &mut watch::Receiver<Rules>) {
    // Fails when nobody is left to close it, which has the same meaning.
    let _ = rules.wait_for(|rules| rules.closed).await;
}

fn welcome(network: &Arc<Network>, client: TcpStream, tasks: &mut JoinSet<()>) {
    if network.rules.borrow().refuse {
        network.counts.refused.fetch_add(1, Ordering::SeqCst);
        connection::reset(&client);
        return;
    }
    network.counts.connections.fetch_add(1, Ordering::SeqCst);
    tasks.spawn(connection::serve(connection::Open::on(network), client));
}
