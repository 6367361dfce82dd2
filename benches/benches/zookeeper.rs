//! Locks in ZooKeeper. Their floor: an ephemeral node created, and deleted, in one session for all tasks. A hand-off is measured by
//! a creation. The server waits for the disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_conformance::servers::{self, ZooKeeperSetup};
use lock_core::{Backend, StoreUrl};
use lock_zookeeper::ZooKeeperConnector;
use lock_zookeeper::zookeeper_client::{Acls, Client, CreateMode, CreateOptions};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

struct ZooKeeper {
    server: servers::ZooKeeper,
    floor: OnceCell<Client>,
    floors: AtomicU64,
    /// What started the server.
    _runtime: Runtime,
}

fn start() -> ZooKeeper {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(ZooKeeperSetup::new().in_earnest().start()).unwrap();
    ZooKeeper { server, floor: OnceCell::new(), floors: AtomicU64::new(0), _runtime: runtime }
}

impl ZooKeeper {
    fn url(&self) -> String {
        format!("zookeeper://{}/locks?tick={}ms", self.server.address(), self.server.tick().as_millis())
    }
}

fn open(url: &str) -> Arc<dyn Backend> {
    ZooKeeperConnector::new().open(&mut StoreUrl::parse(url).unwrap()).unwrap()
}

#[async_trait]
impl Subject for ZooKeeper {
    fn name(&self) -> &'static str {
        "zookeeper"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open(&self.url())
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let client = self.floor.get_or_init(|| connect(self.server.address())).await.clone();
        let number = self.floors.fetch_add(1, Ordering::Relaxed);
        let floor = Bare { client, path: format!("/floor/{number}"), held: format!("/floor/held-{number}") };
        floor.create(&floor.held).await;
        Box::new(floor)
    }

    fn address(&self) -> Option<String> {
        Some(self.url())
    }
}

async fn connect(address: String) -> Client {
    let connector = Client::connector().with_session_timeout(Duration::from_secs(600));
    let client = connector.connect(&address).await.unwrap();
    client.mkdir("/floor", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    client
}

struct Bare {
    client: Client,
    path: String,
    held: String,
}

impl Bare {
    async fn create(&self, path: &str) {
        self.client.create(path, b"", &EPHEMERAL).await.unwrap();
    }

    async fn delete(&self) {
        self.client.delete(&self.path, None).await.unwrap();
    }
}

#[async_trait]
impl Floor for Bare {
    async fn cycle(&mut self) {
        self.create(&self.path).await;
        self.delete().await;
    }

    async fn halves(&mut self) -> Option<[Duration; 2]> {
        let start = Instant::now();
        self.create(&self.path).await;
        let taken = Instant::now();
        self.delete().await;
        Some([taken - start, taken.elapsed()])
    }

    async fn busy(&mut self) {
        self.client.create(&self.held, b"", &EPHEMERAL).await.unwrap_err();
    }

    async fn round_trip(&mut self) -> bool {
        self.client.set_data(&self.held, b"", None).await.unwrap();
        true
    }
}

fn main() {
    lock_benches::run(|| Box::new(start()), open);
}
