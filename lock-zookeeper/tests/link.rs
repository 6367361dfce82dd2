//! A link with delay: how many round trips a caller waits for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::proxy::Proxy;
use lock_conformance::servers::ZooKeeper;
use lock_core::{Backend, Clock, Connector, LockClient, StoreUrl, SystemClock};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

const EACH_WAY: Duration = Duration::from_millis(200);

async fn backend(server: &ZooKeeper, address: &str) -> Arc<dyn Backend> {
    let options = ZooKeeperOptions::new().tick(server.tick());
    let mut url = StoreUrl::parse(&format!("zookeeper://{address}")).unwrap();
    ZooKeeperConnector::with_options(options).connect(&mut url).await.unwrap()
}

async fn round_trips<T>(what: impl Future<Output = T>) -> (u32, T) {
    let clock = SystemClock::new();
    let begun = clock.boot();
    let done = what.await;
    let trips = clock.boot().since(begun).as_secs_f64() / (2.0 * EACH_WAY.as_secs_f64());
    (trips.round() as u32, done)
}

#[tokio::test]
async fn one_round_trip_to_acquire_and_one_to_release() {
    let server = ZooKeeper::start().await.unwrap();
    let link = Proxy::to(server.address()).await.unwrap();
    let client = LockClient::builder(backend(&server, &link.address()).await).build().unwrap();
    let lock = client.mutex("k").unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    link.delay(EACH_WAY);
    for _ in 0..2 {
        let (to_acquire, guard) = round_trips(lock.acquire()).await;
        let guard = guard.unwrap();
        // Whoever tries in vain looks who is there, takes its claim back, and asks who that is.
        let (to_be_refused, busy) = round_trips(lock.try_acquire()).await;
        let (to_release, end) = round_trips(guard.release()).await;
        assert!(busy.unwrap().is_err() && end.is_ok());
        assert_eq!((to_acquire, to_release), (1, 1));
        assert!(to_be_refused <= 5, "{to_be_refused}");
    }
}
