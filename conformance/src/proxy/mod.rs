//! [`Proxy`]: the network between clients and a server, or the several of a store, and what can go wrong with it.
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
mod door;
mod lane;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Error, Result};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use self::connection::Greeting;
use self::door::Door;
use crate::remote::addresses;

/// A TCP proxy to a server, or to several: it has a door for each, an address at which it listens and which leads there. Whatever
/// is done to it is done to all its doors, and whatever it counts is the sum of them.
///
/// Clones are the same proxy; it ends with the last of them, and its connections with it.
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
    /// Listens on a free port of 127.0.0.1, and connects whoever comes to this server: `127.0.0.1:6379`. For a list of several,
    /// `127.0.0.1:7001,127.0.0.1:7002`, it listens on a port for each.
    ///
    /// A client whose connection the server refuses is reset.
    ///
    /// # Errors
    /// There is no port.
    pub async fn to(upstreams: impl AsRef<str>) -> Result<Proxy> {
        let listeners = Door::to_each(upstreams.as_ref()).await?;
        let doors = listeners.iter().map(|(_, door)| door.clone()).collect();
        let network = Arc::new(Network::default());
        let task = tokio::spawn(door::listen(listeners, network.clone()));
        Ok(Proxy(Arc::new(Owner { doors, network, task: Mutex::new(Some(task)) })))
    }

    /// Where it listens: `127.0.0.1:PORT`, or a list of them in the order of its servers.
    pub fn address(&self) -> String {
        self.addresses().join(",")
    }

    /// Where it listens, one address for each of its servers and in their order.
    pub fn addresses(&self) -> Vec<String> {
        self.0.doors.iter().map(|door| door.address.to_string()).collect()
    }

    /// The port on which it listens; of several, the first one.
    pub fn port(&self) -> u16 {
        self.0.doors.first().map_or(0, |door| door.address.port())
    }

    /// Has everything arrive so much later, each way, also what is under way. It is the time of a wire, not of a queue:
    /// any number of messages are under way at once. Zero is none.
    pub fn delay(&self, each_way: Duration) {
        self.change(|rules| rules.delay = each_way);
    }

    /// Leads to another server, or to a list of as many as before: whoever connects from now on. Connections that there are stay
    /// where they are.
    ///
    /// # Errors
    /// There are more or fewer of them than it has doors. Nothing is changed then.
    pub fn lead_to(&self, upstreams: impl AsRef<str>) -> Result<()> {
        let (doors, upstreams) = (&self.0.doors, addresses(upstreams.as_ref()));
        if doors.len() != upstreams.len() {
            let (doors, given) = (doors.len(), upstreams.len());
            return Err(Error::invalid(format!(
                "{given} servers for a proxy to {doors}: name one for each, also for those that stay"
            )));
        }
        doors.iter().zip(upstreams).for_each(|(door, upstream)| door.lead_to(upstream));
        Ok(())
    }

    /// Serves a client that has come another way as if it had come to the door of this number, until its connection ends. It is
    /// told first whether its server has taken it, and nothing for as long as anything is blocked. It ends with whoever awaits
    /// this, not with the proxy.
    pub(crate) async fn lead(&self, door: usize, client: TcpStream, greeting: Greeting) {
        let Some(door) = self.0.doors.get(door) else { return };
        if let Some(open) = door::welcome(&self.0.network, &client) {
            connection::serve(open, Arc::clone(door), client, Some(greeting)).await;
        }
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

    /// Ends all blocks, and forgets a reset that was asked for and has not come. What comes from now on arrives, except in a
    /// connection in which something has vanished: that is reset, for its stream has a hole.
    pub fn heal(&self) {
        {
            let mut cuts = self.0.network.cuts();
            (cuts.to_server, cuts.to_client) = (None, None);
        }
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
    /// connection vanishes, and as soon as something has, the connection is reset. Called by a [watcher](Proxy::watch),
    /// it is the request that he is shown.
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
            .field("doors", &self.0.doors)
            .field("rules", &*network.rules.borrow())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// What all clones share.
struct Owner {
    doors: Vec<Arc<Door>>,
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
#[derive(Default)]
struct Network {
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
    fn cuts(&self) -> MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
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
