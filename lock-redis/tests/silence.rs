//! A server that falls silent while a client connects: the client says so in its time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::proxy::{Proxy, Way};
use lock_conformance::servers::Redis;
use lock_core::{Clock, Connector, ErrorKind, StoreUrl, SystemClock};
use lock_redis::{RedisConnector, RedisOptions};

#[tokio::test]
async fn a_connection_that_falls_silent_half_way_ends_in_time() {
    let redis = Redis::start().await.unwrap();
    let proxy = Proxy::to(redis.address()).await.unwrap();
    let (network, answers) = (proxy.clone(), AtomicUsize::new(0));
    proxy.watch(move |way, _| {
        // The handshake is answered, what follows it is not.
        if way == Way::ToClient && answers.fetch_add(1, Ordering::SeqCst) == 0 {
            network.block(Way::Both);
        }
    });
    let connector =
        RedisConnector::with_options(RedisOptions::new().connect_timeout(Duration::from_millis(200)));
    let mut url = StoreUrl::parse(&format!("redis://{}", proxy.address())).unwrap();
    let error = tokio::select! {
        connected = connector.connect(&mut url) => connected.unwrap_err(),
        () = SystemClock::new().sleep(Duration::from_secs(5)) => panic!("it does not end"),
    };
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(error.endpoint(), Some(&*format!("redis://{}", proxy.address())));
    // It refers to itself.
    proxy.watch(|_, _| {});
}
