//! Many at once, whose claims and releases go together: as good as each by itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::servers::Etcd;
use lock_core::{Connector, LockClient, StoreUrl};
use lock_etcd::EtcdConnector;
use tokio::task::{JoinError, JoinSet, yield_now};

const MANY: usize = 300;
const SHARED: usize = 20;

async fn client(server: &Etcd) -> LockClient {
    let backend = EtcdConnector::new().connect(&mut StoreUrl::parse(&server.url()).unwrap()).await.unwrap();
    LockClient::builder(backend).call_timeout(Duration::from_secs(2)).build().unwrap()
}

/// What is claimed, or waited for.
async fn claims(server: &Etcd) -> u64 {
    server.keys("fencepost/l/").await.unwrap()
}

/// A key that a few share: nobody is inside with another, and tokens rise.
#[derive(Default)]
struct Shared {
    inside: AtomicUsize,
    last: AtomicU64,
}

impl Shared {
    async fn is_entered(&self, token: u64) {
        let _inside = Inside::enter(&self.inside);
        assert!(self.last.swap(token, Ordering::SeqCst) < token, "tokens rise");
        yield_now().await;
    }
}

/// Until it is dropped: who is inside may be made to go.
struct Inside<'a>(&'a AtomicUsize);

impl Inside<'_> {
    fn enter(inside: &AtomicUsize) -> Inside<'_> {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside at once");
        Inside(inside)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_are_served_on_keys_of_their_own_and_on_shared_ones() {
    let server = Etcd::start().await.unwrap();
    let clients = [client(&server).await, client(&server).await];
    let keys: Arc<Vec<Shared>> = Arc::new((0..SHARED).map(|_| Shared::default()).collect());
    let entered = Arc::new(AtomicUsize::new(0));
    let mut working = JoinSet::new();
    for task in 0..MANY {
        let (client, keys, entered) = (clients[task % 2].clone(), keys.clone(), entered.clone());
        working.spawn(async move {
            let key = task % SHARED;
            let (own, shared) = (
                client.mutex(format!("own-{task}")).unwrap(),
                client.mutex(format!("shared-{key}")).unwrap(),
            );
            let mut before = 0;
            for _ in 0..3 {
                let held = own.acquire().await.unwrap();
                assert!(held.token().get() > before);
                before = held.token().get();
                let inside = shared.acquire().await.unwrap();
                keys[key].is_entered(inside.token().get()).await;
                entered.fetch_add(1, Ordering::SeqCst);
                inside.release().await.unwrap();
                held.release().await.unwrap();
            }
        });
    }
    working.join_all().await;
    assert_eq!((entered.load(Ordering::SeqCst), claims(&server).await), (3 * MANY, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_meanwhile_leaves_nothing_behind() {
    let server = Etcd::start().await.unwrap();
    let client = client(&server).await;
    let keys: Arc<Vec<Shared>> = Arc::new((0..SHARED).map(|_| Shared::default()).collect());
    let mut working = JoinSet::new();
    let mut goers = Vec::new();
    for task in 0..MANY {
        let (client, keys) = (client.clone(), keys.clone());
        let works = working.spawn(async move {
            let key = task % SHARED;
            let lock = client.mutex(format!("shared-{key}")).unwrap();
            let inside = lock.acquire().await.unwrap();
            keys[key].is_entered(inside.token().get()).await;
            inside.release().await.unwrap();
        });
        if task % 3 != 0 {
            goers.push(works);
        }
    }
    // Some before they are asked, some in the middle of it, and some behind it.
    for (turn, goer) in goers.into_iter().enumerate() {
        goer.abort();
        if turn % 7 == 0 {
            server.revision().await.unwrap();
        }
    }
    let mut served = 0;
    while let Some(worked) = working.join_next().await {
        assert!(worked.as_ref().err().is_none_or(JoinError::is_cancelled), "{worked:?}");
        served += usize::from(worked.is_ok());
    }
    assert!(served >= MANY / 3, "{served}");
    // Whoever has gone is withdrawn by the engine, which nobody awaits.
    while claims(&server).await > 0 {
        yield_now().await;
    }
    for key in 0..SHARED {
        let lock = client.mutex(format!("shared-{key}")).unwrap();
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_ends_all_calls() {
    let server = Arc::new(Etcd::start().await.unwrap());
    let client = client(&server).await;
    let (answered, mut working) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for task in 0..MANY {
        let (lock, answered) = (client.mutex(task.to_string()).unwrap(), answered.clone());
        // One attempt each time, until it fails.
        working.spawn(async move {
            while let Ok(Ok(held)) = lock.try_acquire().await {
                answered.fetch_add(1, Ordering::SeqCst);
                if held.release().await.is_err() {
                    return;
                }
            }
        });
    }
    while answered.load(Ordering::SeqCst) < 2 * MANY {
        yield_now().await;
    }
    server.kill().await.unwrap();
    working.join_all().await;

    server.start_again().await.unwrap();
    let mut working = JoinSet::new();
    for task in 0..MANY {
        let lock = client.mutex(task.to_string()).unwrap();
        working.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
    }
    working.join_all().await;
    while claims(&server).await > 0 {
        yield_now().await;
    }
}
