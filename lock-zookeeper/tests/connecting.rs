//! How servers are reached: URLs, and several of them.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{ZooKeeper, free_port};
use lock_core::{Backend, Clock, Connector, ErrorKind, LockClient, Result, StoreUrl, SystemClock};
use lock_zookeeper::zookeeper_client::Client;
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    // The tick of servers of the harness.
    let options = ZooKeeperOptions::new().connect_timeout(CONNECT_TIMEOUT).tick(CONNECT_TIMEOUT / 4);
    ZooKeeperConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
}

async fn takes_a_lock(backend: Arc<dyn Backend>) -> Result<()> {
    let client = LockClient::builder(backend).build()?;
    client.mutex("k")?.acquire().await?.release().await.map(|_| ())
}

#[tokio::test]
async fn by_address_by_name_and_under_another_root() {
    let server = ZooKeeper::start().await.unwrap();
    for (host, path, root) in [
        ("127.0.0.1", "", "/fencepost"),
        ("localhost", "/", "/fencepost"),
        ("localhost", "/billing/locks", "/billing/locks"),
    ] {
        let backend = connect(&format!("zookeeper://{host}:{}{path}", server.port())).await.unwrap();
        let client = LockClient::builder(backend).build().unwrap();
        let held = client.mutex("k").unwrap().acquire().await.unwrap();
        let driver = Client::connect(&server.address()).await.unwrap();
        let sessions = driver.list_children(&format!("{root}/sessions")).await.unwrap();
        assert!(!sessions.is_empty(), "{host}{path}");
        held.release().await.unwrap();
        client.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_is_refused_before_anything_is_sent() {
    for (url, words) in [
        ("zookeeper:", "names the servers"),
        ("zookeeper:///locks", "names the servers"),
        ("zookeeper://127.0.0.1:1?tls=yes", "unknown query key \"tls\""),
        ("zookeeper://app@127.0.0.1:1", "a user and a password belong together"),
        ("zookeeper://:hunter2@127.0.0.1:1", "a user and a password belong together"),
        ("zookeeper://127.0.0.1:1?ca_file=/a", "begin with zookeepers"),
        ("zookeeper://127.0.0.1:1?sasl=true", "the URL names none"),
        ("zookeeper://127.0.0.1:1?access=all", "access is creator or world"),
        ("zookeeper://127.0.0.1:1?tick=0s", "a tick of no time"),
        ("zookeeper://127.0.0.1:1?tick=2h", "more than an hour"),
        ("zookeepers://a_b..c:1", "cannot be reached with TLS"),
        ("zookeeper://127.0.0.1:1?cert_file=/c&key_file=/k", "begin with zookeepers"),
        ("zookeepers://127.0.0.1:1?cert_file=/c", "cert_file and key_file belong together"),
        ("zookeepers://127.0.0.1:1?key_file=/k", "cert_file and key_file belong together"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{url}: {error}");
        assert!(error.message().contains(words), "{url}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let error = connect("zookeeper://127.0.0.1:1/a%20b").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn who_is_not_there_is_named_in_time() {
    let port = free_port().unwrap();
    for host in ["127.0.0.1", "nobody.invalid"] {
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = connect(&format!("zookeeper://app:hunter2@{host}:{}", port.number())).await.unwrap_err();
        assert!(clock.boot().since(begun) < CONNECT_TIMEOUT * 2);
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(&format!("{host}:{}", port.number())), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Whichever it begins with.
#[tokio::test]
async fn one_of_several_that_is_there_suffices() {
    let (server, nobody) = (ZooKeeper::start().await.unwrap(), [free_port().unwrap(), free_port().unwrap()]);
    let down = nobody.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    for order in [
        [&down[0], &down[1], &server.address()],
        [&down[0], &server.address(), &down[1]],
        [&server.address(), &down[0], &down[1]],
    ] {
        let url = format!("zookeeper://{},{},{}", order[0], order[1], order[2]);
        let clock = SystemClock::new();
        let begun = clock.boot();
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
        let by_its_first_call = ZooKeeperConnector::new().open(&mut StoreUrl::parse(&url).unwrap()).unwrap();
        takes_a_lock(by_its_first_call).await.unwrap();
        let took = clock.boot().since(begun);
        assert!(took < CONNECT_TIMEOUT, "{url}: {took:?}");
    }
}

/// Whichever it begins with: they are asked in any order, and a minority may not use up the time of the others.
#[tokio::test]
async fn a_server_that_says_nothing_leaves_time_for_the_others() {
    let (server, nobody) = (ZooKeeper::start().await.unwrap(), free_port().unwrap());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap();
    let url = format!("zookeeper://{silent_at},127.0.0.1:{},{}", nobody.number(), server.address());
    for _ in 0..6 {
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
    }
}
