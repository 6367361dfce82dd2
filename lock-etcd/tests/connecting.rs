//! How servers are reached: URLs, several of them, an application's own options.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Etcd, EtcdSetup, free_port};
use lock_core::{Backend, Clock, Connector, ErrorKind, LockClient, Result, Secret, StoreUrl, SystemClock};
use lock_etcd::etcd_client::ConnectOptions;
use lock_etcd::{EtcdConnector, EtcdOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    let options = EtcdOptions::new().connect_timeout(CONNECT_TIMEOUT);
    EtcdConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
}

async fn takes_a_lock(backend: Arc<dyn Backend>) -> Result<()> {
    let client = LockClient::builder(backend).build()?;
    client.mutex("k")?.acquire().await?.release().await.map(|_| ())
}

#[tokio::test]
async fn by_address_by_name_and_under_another_root() {
    let server = Etcd::start().await.unwrap();
    for (host, path, root) in [
        ("127.0.0.1", "", "fencepost/"),
        ("localhost", "/", "fencepost/"),
        ("localhost", "/billing/locks", "billing/locks/"),
    ] {
        let backend = connect(&format!("etcd://{host}:{}{path}", server.port())).await.unwrap();
        let client = LockClient::builder(backend).build().unwrap();
        let held = client.mutex("k").unwrap().acquire().await.unwrap();
        assert!(server.keys(root).await.unwrap() > 0, "{host}{path}");
        held.release().await.unwrap();
        client.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn by_an_address_of_ip_version_6() {
    let here = free_port().unwrap();
    let server = EtcdSetup::new()
        // The last one counts.
        .arguments([format!("--listen-client-urls=http://[::1]:{},unix://etcd.sock:0", here.number())])
        .start()
        .await
        .unwrap();
    takes_a_lock(connect(&format!("etcd://[::1]:{}", here.number())).await.unwrap()).await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_url_that_cannot_be_is_refused_before_anything_is_sent() {
    for (url, words) in [
        ("etcd:", "names the servers"),
        ("etcd:///locks", "names the servers"),
        ("etcd://127.0.0.1:1?tls=yes", "unknown query key \"tls\""),
        ("etcd://root@127.0.0.1:1", "a user and a password belong together"),
        ("etcd://:hunter2@127.0.0.1:1", "a user and a password belong together"),
        ("etcd://127.0.0.1:1?ca_file=/a", "begin with etcds"),
        ("etcd://127.0.0.1:1?cert_file=/c&key_file=/k", "begin with etcds"),
        ("etcds://127.0.0.1:1?cert_file=/c", "cert_file and key_file belong together"),
        ("etcds://127.0.0.1:1?key_file=/k", "cert_file and key_file belong together"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{url}: {error}");
        assert!(error.message().contains(words), "{url}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let error = connect("etcd://127.0.0.1:1/a%20b").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn who_is_not_there_is_named_in_time() {
    let port = free_port().unwrap();
    for host in ["127.0.0.1", "nobody.invalid"] {
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = connect(&format!("etcd://root:hunter2@{host}:{}", port.number())).await.unwrap_err();
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
    let (server, nobody) = (Etcd::start().await.unwrap(), [free_port().unwrap(), free_port().unwrap()]);
    let down = nobody.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    for order in [
        [&down[0], &down[1], &server.address()],
        [&down[0], &server.address(), &down[1]],
        [&server.address(), &down[0], &down[1]],
    ] {
        let url = format!("etcd://{},{},{}", order[0], order[1], order[2]);
        let clock = SystemClock::new();
        let begun = clock.boot();
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
        let by_its_first_call = EtcdConnector::new().open(&mut StoreUrl::parse(&url).unwrap()).unwrap();
        takes_a_lock(by_its_first_call).await.unwrap();
        let took = clock.boot().since(begun);
        assert!(took < CONNECT_TIMEOUT, "{url}: {took:?}");
    }
}

#[tokio::test]
async fn with_an_applications_own_options() {
    let server = EtcdSetup::new().password("hunter2").start().await.unwrap();
    let as_root = || ConnectOptions::new().with_user("root", "hunter2");
    let backend = lock_etcd::backend([server.url()], as_root(), EtcdOptions::new()).unwrap();
    assert!(!format!("{backend:?}").contains("hunter2"), "{backend:?}");
    takes_a_lock(backend).await.unwrap();
    // What the other options say goes before it.
    let options = EtcdOptions::new().user("root", Secret::from("wrong"));
    let error =
        takes_a_lock(lock_etcd::backend([server.url()], as_root(), options).unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
}

#[test]
fn endpoints_that_cannot_be_are_refused() {
    let plain = EtcdOptions::new;
    for (endpoints, options, words) in [
        (vec![], plain(), "no endpoint"),
        (vec!["127.0.0.1:1"], plain(), "http:// or https://"),
        (vec!["ftp://127.0.0.1:1"], plain(), "http:// or https://"),
        (vec!["http://root:hunter2@127.0.0.1:1"], plain(), "nothing before or behind"),
        (vec!["http://127.0.0.1:1/locks"], plain(), "nothing before or behind"),
        (vec!["http://127.0.0.1:1", "https://127.0.0.1:2"], plain(), "one or the other"),
        (vec!["http://127.0.0.1:1"], plain().tls(), "https://"),
        (vec!["http://127.0.0.1:1"], plain().ca_file("/a"), "https://"),
    ] {
        let shown = format!("{endpoints:?}");
        let error = lock_etcd::backend(endpoints, ConnectOptions::new(), options).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{shown}: {error}");
        assert!(error.message().contains(words), "{shown}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
