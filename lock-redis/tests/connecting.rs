//! How a server is reached: URLs, sockets, passwords, credentials that are asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_core::{Backend, Connector, Error, ErrorKind, LockClient, LockKey, Result, Secret, StoreUrl};
use lock_redis::{Credentials, RedisConnector, RedisOptions, redis};

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    RedisConnector::new().connect(&mut StoreUrl::parse(url)?).await
}

async fn takes_a_lock(backend: Arc<dyn Backend>) -> Result<()> {
    let client = LockClient::builder(backend).build()?;
    client.mutex("k")?.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn by_tcp_by_socket_and_by_the_number_of_a_database() {
    let server = Redis::start().await.unwrap();
    let socket = server.socket().display();
    for (url, database) in [
        (server.url(), "0"),
        (format!("{}/3", server.url()), "3"),
        (format!("redis+unix://{socket}?db=5"), "5"),
        (format!("{}/7?namespace=billing&idle_after=1s", server.url()), "7"),
    ] {
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
        let Reply::Text(info) = server.command(["INFO", "keyspace"]).await.unwrap() else { panic!() };
        assert!(info.contains(&format!("db{database}:")), "{url}: {info}");
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_is_refused_before_anything_is_sent() {
    for (url, words) in [
        ("redis://a,b", "names one server"),
        ("redis:", "names one server"),
        ("redis://127.0.0.1/x", "no number of a Redis database"),
        ("redis://127.0.0.1/-1", "no number of a Redis database"),
        ("redis+unix://host/run/redis.sock", "three slashes"),
        ("redis://127.0.0.1:1?tls=yes", "unknown query key \"tls\""),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{url}");
        assert!(error.message().contains(words), "{url}: {error}");
    }
    let error = connect("redis://127.0.0.1:1?namespace=a%20b").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn who_is_not_there_is_named() {
    let port = lock_conformance::servers::free_port().unwrap();
    let error = connect(&format!("redis://:hunter2@127.0.0.1:{}", port.number())).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true));
    let text = format!("{error} {error:?}");
    assert!(text.contains(&format!("127.0.0.1:{}", port.number())), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn credentials_are_asked_for_at_each_connection() {
    let server = RedisSetup::new().password("first").start().await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let options = RedisOptions::new().credentials(move || {
        let count = count.clone();
        async move {
            let password = ["first", "second"][count.fetch_add(1, Ordering::SeqCst).min(1)];
            Ok(Credentials::new(None, Secret::from(password)))
        }
    });
    assert!(!format!("{options:?}").contains("first"));
    // What the URL says counts no more.
    let driver = redis::Client::open(format!("redis://:wrong@{}", server.address())).unwrap();
    let backend = lock_redis::backend(&driver, options).unwrap();
    assert!(!format!("{backend:?}").contains("wrong"), "{backend:?}");
    takes_a_lock(backend.clone()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    assert_eq!(
        server.command(["CONFIG", "SET", "requirepass", "second"]).await.unwrap(),
        Reply::Text("OK".into())
    );
    let mut admin = redis::Client::open(format!("redis://:second@{}", server.address()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let killed: u32 =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").query_async(&mut admin).await.unwrap();
    assert!(killed <= 1);
    let _: u32 =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query_async(&mut admin).await.unwrap();
    takes_a_lock(backend).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_panic_of_the_callback_is_an_error_and_the_next_call_asks_again() {
    let server = Redis::start().await.unwrap();
    let asked = AtomicUsize::new(0);
    let options = RedisOptions::new().credentials(move || {
        let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            assert!(!first, "as it is meant here");
            Ok(Credentials::new(None, Secret::from("")))
        }
    });
    let driver = redis::Client::open(server.url()).unwrap();
    let backend = lock_redis::backend(&driver, options).unwrap();
    let error = backend.inspect(&LockKey::new("k").unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("panicked"), "{error}");
    backend.inspect(&LockKey::new("k").unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_callback_is_the_callers() {
    let server = Redis::start().await.unwrap();
    let options = RedisOptions::new()
        .credentials(|| async { Err(Error::new(ErrorKind::Denied, "the vault is sealed")) });
    let driver = redis::Client::open(server.url()).unwrap();
    let error = takes_a_lock(lock_redis::backend(&driver, options).unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("the vault is sealed"), "{error}");
}
