//! Accounts: tokens that expire, passwords that change, servers that forget; and what nobody gets to see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Etcd, EtcdSetup};
use lock_core::{
    Backend, Clock, Connector, ErrorKind, Guard, HoldState, LockClient, LockKey, Result, StoreUrl,
    SystemClock,
};
use lock_etcd::{EtcdConnector, EtcdOptions};
use serde_json::json;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "hunter2";

async fn server(arguments: &[&str]) -> Etcd {
    EtcdSetup::new().password(PASSWORD).arguments(arguments.iter().copied()).start().await.unwrap()
}

/// Connected by its first call.
fn backend(server: &Etcd, user: &str, password: &str) -> Arc<dyn Backend> {
    let url = format!("etcd://{user}:{password}@{}", server.address());
    EtcdConnector::new().open(&mut StoreUrl::parse(&url).unwrap()).unwrap()
}

fn client(server: &Etcd, ttl: Duration) -> LockClient {
    LockClient::builder(backend(server, "root", PASSWORD)).ttl(ttl).build().unwrap()
}

/// For so long, which is longer than it lasts unless it is renewed.
async fn is_renewed(held: &Guard, time: Duration) {
    let clock = SystemClock::new();
    let end = clock.boot() + time;
    while clock.boot() < end {
        assert!(!matches!(held.state(), HoldState::Ended(_)), "{:?}", held.state());
        clock.sleep(SECOND / 20).await;
    }
}

async fn takes_a_lock(client: &LockClient, key: &str) -> Result<()> {
    client.mutex(key)?.acquire().await?.release().await.map(|_| ())
}

#[tokio::test]
async fn user_and_password_are_decoded() {
    let server = server(&[]).await;
    server.account("a@b:c", "p/@:%é", "fencepost/").await.unwrap();
    let backend = backend(&server, "a%40b%3Ac", "p%2F%40%3A%25%C3%A9");
    takes_a_lock(&LockClient::builder(backend).build().unwrap(), "k").await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once_and_made_public_by_nobody() {
    let server = server(&[]).await;
    for (user, password) in [("root", "swordfish"), ("nobody", "swordfish")] {
        let url = format!("etcd://{user}:{password}@{}", server.address());
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = EtcdConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap_err();
        assert!(clock.boot().since(begun) < SECOND);
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
        assert!(error.message().contains("check user and password"), "{error}");
        assert!(error.endpoint().unwrap().contains(&server.address()), "{error}");

        let backend = backend(&server, user, password);
        let options = EtcdOptions::new().user(user, password.into());
        let connector = EtcdConnector::with_options(options.clone());
        let client = LockClient::builder(backend.clone()).build().unwrap();
        let refused = client.mutex("k").unwrap().acquire().await.unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::Denied, "{refused}");
        let shown = format!(
            "{error} {error:?} {refused} {refused:?} {backend:?} {:?} {options:?} {connector:?} {client:?}",
            backend.info()
        );
        assert!(!shown.contains(password), "{shown}");
    }
}

#[tokio::test]
async fn a_server_without_accounts_is_told_from_one_that_refuses() {
    let server = Etcd::start().await.unwrap();
    let error = backend(&server, "root", PASSWORD).inspect(&LockKey::new("k").unwrap()).await.unwrap_err();
    // It may be about to get them.
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, true), "{error}");
    assert!(error.message().contains("knows no accounts"), "{error}");
}

/// Tokens that end two seconds after they were last used, and with them whatever was to be watched in their name. Each waiter is
/// told in time all the same: long before a renewal would find out.
#[tokio::test]
async fn tokens_expire_under_waiters() {
    let server = server(&["--auth-token-ttl", "2"]).await;
    let [holder, early, late] = [0; 3].map(|_| client(&server, 60 * SECOND));
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let mut first = waiter(&early, "k").await;
    // On the stream on which this one will watch again.
    let warm = holder.mutex("warm").unwrap().acquire().await.unwrap();
    let mut warming = waiter(&late, "warm").await;
    warm.release().await.unwrap();
    is_granted_soon(&mut warming).await.release().await.unwrap();

    SystemClock::new().sleep(SECOND * 7 / 2).await;
    let mut last = waiter(&late, "k").await;
    held.release().await.unwrap();
    is_granted_soon(&mut first).await.release().await.unwrap();
    is_granted_soon(&mut last).await.release().await.unwrap();
}

/// One more that waits, once it is in the queue.
async fn waiter(client: &LockClient, key: &str) -> JoinSet<Result<Guard>> {
    let queue = async || client.inspect(key).await.unwrap().queue.len();
    let (before, lock) = (queue().await, client.mutex(key).unwrap());
    let waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    while queue().await == before {
        SystemClock::new().sleep(SECOND / 500).await;
    }
    waiting
}

async fn is_granted_soon(waiting: &mut JoinSet<Result<Guard>>) -> Guard {
    tokio::select! {
        granted = waiting.join_next() => granted.unwrap().unwrap().unwrap(),
        () = SystemClock::new().sleep(3 * SECOND) => panic!("nobody told the waiter"),
    }
}

/// For so long, which is longer than the tokens last.
#[tokio::test]
async fn tokens_expire_under_a_hold() {
    let server = server(&["--auth-token-ttl", "1"]).await;
    let client = client(&server, 6 * SECOND);
    let held = client.mutex("k").unwrap().acquire().await.unwrap();
    is_renewed(&held, 8 * SECOND).await;
    held.release().await.unwrap();
}

/// A restarted server knows no token any more.
#[tokio::test]
async fn a_hold_outlives_a_restart_that_forgets_all_tokens() {
    let server = server(&[]).await;
    let client = client(&server, 6 * SECOND);
    let held = client.mutex("k").unwrap().acquire().await.unwrap();
    for _ in 0..2 {
        server.kill().await.unwrap();
        server.start_again().await.unwrap();
        is_renewed(&held, 7 * SECOND).await;
    }
    held.release().await.unwrap();
    takes_a_lock(&client, "k").await.unwrap();
}

#[tokio::test]
async fn a_password_that_has_changed_is_said_to() {
    let server = server(&[]).await;
    server.account("locks", "first", "fencepost/").await.unwrap();
    let client = LockClient::builder(backend(&server, "locks", "first")).build().unwrap();
    takes_a_lock(&client, "k").await.unwrap();
    server.call("/v3/auth/user/changepw", &json!({ "name": "locks", "password": "second" })).await.unwrap();
    let error = takes_a_lock(&client, "k").await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    assert!(error.message().contains("check user and password"), "{error}");
}

/// Its tokens name a revision that the empty server has not reached: it would let whoever shows one wait for that. But the client
/// has noticed that its connection has gone, and asks for a new one.
#[tokio::test]
async fn a_server_that_has_lost_everything_is_used_again() {
    let server = server(&[]).await;
    let client = client(&server, 6 * SECOND);
    for _ in 0..200 {
        takes_a_lock(&client, "k").await.unwrap();
    }
    server.kill().await.unwrap();
    server.start_again_empty().await.unwrap();
    let clock = SystemClock::new();
    let begun = clock.boot();
    while let Err(error) = takes_a_lock(&client, "k").await {
        assert!(matches!(error.kind(), ErrorKind::SessionLost(_)) && error.is_retryable(), "{error}");
    }
    let took = clock.boot().since(begun);
    assert!(took < SECOND, "{took:?}");
}
