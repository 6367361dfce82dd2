//! What takes and gives back: a bare put and delete, ours, and the driver's `LockClient`.

use std::time::Duration;

use fencepost_peers::TTL;
use fencepost_peers::shapes::{Beside, Locker};
use lock_core::{LockClient, Result, StoreUrl};
use lock_etcd::etcd_client::{self, Client, ConnectOptions, GetOptions, LockOptions, PutOptions};
use lock_etcd::{EtcdConnector, EtcdOptions};

/// About as long as what ours has to say of a holder.
const VALUE: &str = "00112233445566778899aabbccddeeff 1234 1 1 s exclusive  12345,some-host.example,,,";

/// The least that a lock in etcd can be.
#[derive(Clone)]
pub struct Bare {
    client: Client,
    key: String,
    lease: i64,
}

impl Bare {
    /// With a lease of the caller's.
    pub fn new(client: &Client, key: String, lease: i64) -> Bare {
        Bare { client: client.clone(), key, lease }
    }
}

impl Locker for Bare {
    type Held = ();

    async fn take(&mut self) {
        let options = PutOptions::new().with_lease(self.lease);
        self.client.kv_client().put(self.key.as_str(), VALUE, Some(options)).await.expect("a put");
    }

    async fn give_back(&mut self, (): ()) {
        let deleted = self.client.kv_client().delete(self.key.as_str(), None).await.expect("a deletion");
        assert_eq!(deleted.deleted(), 1);
    }
}

/// A lock of the server's own, through the driver.
#[derive(Clone)]
pub struct Theirs {
    client: etcd_client::LockClient,
    name: String,
    lease: i64,
}

impl Theirs {
    /// Two tasks with one lease would hold together: each has its own.
    pub fn new(client: &Client, name: String, lease: i64) -> Theirs {
        Theirs { client: client.lock_client(), name, lease }
    }
}

impl Locker for Theirs {
    type Held = Vec<u8>;

    async fn take(&mut self) -> Vec<u8> {
        let options = LockOptions::new().with_lease(self.lease);
        let locked = self.client.lock(self.name.as_str(), Some(options)).await.expect("a lock");
        locked.key().to_vec()
    }

    async fn give_back(&mut self, held: Vec<u8>) {
        self.client.unlock(held).await.expect("an end of it");
    }
}

/// Counts the keys below a name, and puts one.
#[derive(Clone)]
pub struct Aside {
    floor: Bare,
    below: String,
}

impl Aside {
    pub fn new(floor: Bare, below: impl Into<String>) -> Aside {
        Aside { floor, below: below.into() }
    }
}

impl Beside for Aside {
    async fn places(&mut self) -> i64 {
        let options = GetOptions::new().with_prefix().with_count_only().with_serializable();
        let mut client = self.floor.client.kv_client();
        client.get(self.below.as_str(), Some(options)).await.expect("a count").count()
    }

    async fn write(&mut self) {
        self.floor.take().await;
    }
}

/// A client of ours with a session and a connection of its own.
pub async fn ours(address: &str) -> Result<LockClient> {
    let connector = EtcdConnector::with_options(EtcdOptions::new());
    let backend = connector.open(&mut StoreUrl::parse(&format!("etcd://{address}/{OURS}"))?)?;
    let client = LockClient::builder(backend).ttl(TTL).build()?;
    client.open().await?;
    Ok(client)
}

/// Below what ours keeps everything.
pub const OURS: &str = "ours";

/// Set up as our own connections are.
pub async fn connect(address: &str) -> Client {
    let options = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(6), Duration::from_secs(2))
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    Client::connect([address], Some(options)).await.expect("a connection")
}

pub async fn lease(client: &Client) -> i64 {
    client.lease_client().grant(TTL.as_secs() as i64, None).await.expect("a lease").id()
}
