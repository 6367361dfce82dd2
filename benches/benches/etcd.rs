//! Locks in etcd. Their floor: a bare put with a lease, and a bare delete, on one connection for all tasks. A hand-off is measured
//! by a put. The server waits for the disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_conformance::servers::{self, EtcdSetup};
use lock_core::{Backend, StoreUrl};
use lock_etcd::EtcdConnector;
use lock_etcd::etcd_client::{Client, Compare, CompareOp, ConnectOptions, KvClient, PutOptions, Txn, TxnOp};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

struct Etcd {
    server: servers::Etcd,
    floor: OnceCell<(Client, i64)>,
    floors: AtomicU64,
    /// What started the server.
    _runtime: Runtime,
}

fn start() -> Etcd {
    let runtime = Runtime::new().unwrap();
    // The harness spares its tests the disk; of two of the same argument the later one counts.
    let setup = EtcdSetup::new().arguments(["--unsafe-no-fsync=false"]);
    let server = runtime.block_on(setup.start()).unwrap();
    Etcd { server, floor: OnceCell::new(), floors: AtomicU64::new(0), _runtime: runtime }
}

fn open(url: &str) -> Arc<dyn Backend> {
    EtcdConnector::new().open(&mut StoreUrl::parse(url).unwrap()).unwrap()
}

#[async_trait]
impl Subject for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        open(&format!("etcd://{}/locks", self.server.address()))
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let (client, lease) = self.floor.get_or_init(|| connect(self.server.address())).await;
        let number = self.floors.fetch_add(1, Ordering::Relaxed);
        let mut floor = Bare {
            client: client.kv_client(),
            key: format!("floor/{number}"),
            held: format!("floor/held-{number}"),
            lease: *lease,
        };
        floor.put(floor.held.clone()).await;
        Box::new(floor)
    }

    fn address(&self) -> Option<String> {
        Some(format!("etcd://{}/locks", self.server.address()))
    }
}

/// Set up as the store's own connection is, with a lease that outlasts every measurement.
async fn connect(address: String) -> (Client, i64) {
    let options = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(6), Duration::from_secs(2))
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let client = Client::connect([address], Some(options)).await.unwrap();
    let lease = client.lease_client().grant(3600, None).await.unwrap().id();
    (client, lease)
}

/// About as long as what the store has to say of a holder.
const VALUE: &str = "00112233445566778899aabbccddeeff 1234 1 1 s exclusive  12345,some-host.example,,,";

struct Bare {
    client: KvClient,
    key: String,
    held: String,
    lease: i64,
}

impl Bare {
    async fn put(&mut self, key: String) {
        self.client.put(key, VALUE, Some(PutOptions::new().with_lease(self.lease))).await.unwrap();
    }

    async fn delete(&mut self) {
        assert_eq!(self.client.delete(self.key.as_str(), None).await.unwrap().deleted(), 1);
    }
}

#[async_trait]
impl Floor for Bare {
    async fn cycle(&mut self) {
        self.put(self.key.clone()).await;
        self.delete().await;
    }

    async fn halves(&mut self) -> Option<[Duration; 2]> {
        let start = Instant::now();
        self.put(self.key.clone()).await;
        let taken = Instant::now();
        self.delete().await;
        Some([taken - start, taken.elapsed()])
    }

    async fn busy(&mut self) {
        let is_free = Compare::create_revision(self.held.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(self.held.as_str(), VALUE, Some(PutOptions::new().with_lease(self.lease)));
        let look = TxnOp::get(self.held.as_str(), None);
        let txn = Txn::new().when([is_free]).and_then([put]).or_else([look]);
        assert!(!self.client.txn(txn).await.unwrap().succeeded());
    }

    async fn round_trip(&mut self) -> bool {
        self.put(self.held.clone()).await;
        true
    }
}

fn main() {
    lock_benches::run(|| Box::new(start()), open);
}
