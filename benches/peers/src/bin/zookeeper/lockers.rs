//! What takes and gives back: a bare node that is created and deleted, ours, and the driver's `Client::lock`.

use std::time::Duration;

use fencepost_peers::shapes::{Beside, Locker};
use lock_core::{Guard, Lock, LockClient, Result, StoreUrl};
use lock_zookeeper::zookeeper_client::{
    Acls, Client, CreateMode, CreateOptions, LockOptions, LockPrefix, OwnedLockClient,
};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
const KEPT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// For how long nobody needs to renew anything: the longest that the server grants.
const TTL: Duration = Duration::from_secs(3_600);

/// The least that a lock in ZooKeeper can be.
#[derive(Clone)]
pub struct Bare {
    client: Client,
    path: String,
}

impl Bare {
    pub fn new(client: &Client, path: String) -> Bare {
        Bare { client: client.clone(), path }
    }
}

impl Locker for Bare {
    type Held = ();

    async fn take(&mut self) {
        self.client.create(&self.path, b"", &EPHEMERAL).await.expect("a node");
    }

    async fn give_back(&mut self, (): ()) {
        self.client.delete(&self.path, None).await.expect("a deletion");
    }
}

/// The driver's own lock. It has no release that could be waited for: when it is dropped, that goes on behind it. Whoever wants to
/// know that it has been given back deletes its node.
#[derive(Clone)]
pub struct Theirs {
    client: Client,
    directory: String,
    is_awaited: bool,
}

impl Theirs {
    pub fn new(client: &Client, directory: String, is_awaited: bool) -> Theirs {
        Theirs { client: client.clone(), directory, is_awaited }
    }
}

impl Locker for Theirs {
    type Held = OwnedLockClient;

    async fn take(&mut self) -> OwnedLockClient {
        let prefix = LockPrefix::new_curator(&self.directory, "lock").expect("a prefix");
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(KEPT).expect("options");
        self.client.lock(prefix, b"", options).await.expect("a lock").into_owned()
    }

    async fn give_back(&mut self, held: OwnedLockClient) {
        if self.is_awaited {
            self.client.delete(held.lock_path(), None).await.expect("a deletion");
            // It would delete it again.
            std::mem::forget(held);
        }
    }
}

/// Ours, given back by dropping its guard.
#[derive(Clone)]
pub struct Dropped(pub Lock);

impl Locker for Dropped {
    type Held = Guard;

    async fn take(&mut self) -> Guard {
        self.0.take().await
    }

    async fn give_back(&mut self, held: Guard) {
        drop(held);
    }
}

/// Counts the claims of a lock, and creates a node.
#[derive(Clone)]
pub struct Aside {
    client: Client,
    lock: String,
}

impl Aside {
    pub fn new(client: &Client, lock: impl Into<String>) -> Aside {
        Aside { client: client.clone(), lock: lock.into() }
    }
}

impl Beside for Aside {
    async fn places(&mut self) -> i64 {
        self.client.list_children(&self.lock).await.map_or(0, |names| names.len() as i64)
    }

    async fn write(&mut self) {
        self.client.create("/floor/aside-", b"", &SEQUENTIAL).await.expect("a node");
    }
}

/// Writes without leaving anything.
#[derive(Clone)]
pub struct Writer(pub Client);

impl Beside for Writer {
    async fn places(&mut self) -> i64 {
        0
    }

    async fn write(&mut self) {
        self.0.set_data("/floor", b"", None).await.expect("a write");
    }
}

/// A client of ours with a session and a connection of its own.
pub async fn ours(address: &str, tick: Duration) -> Result<LockClient> {
    let connector = ZooKeeperConnector::with_options(ZooKeeperOptions::new().tick(tick));
    let backend = connector.open(&mut StoreUrl::parse(&format!("zookeeper://{address}/{OURS}"))?)?;
    let client = LockClient::builder(backend).ttl(TTL).build()?;
    client.open().await?;
    Ok(client)
}

/// Below what ours keeps everything.
pub const OURS: &str = "ours";

pub async fn connect(address: &str) -> Client {
    let client = Client::connector().with_session_timeout(TTL).connect(address).await.expect("a connection");
    client.mkdir("/floor", &KEPT).await.expect("a directory");
    client
}
