//! A holder that a real network cuts off: packets are lost, and nobody is told.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::proxy::Way;
use lock_conformance::servers::{Island, RedisSetup};
use lock_core::{
    BootTime, Clock, Connector, End, ErrorKind, Guard, Held, HoldState, LockClient, Reason, StoreUrl,
    SystemClock,
};
use lock_redis::RedisConnector;
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(1);

/// For what is to happen at all, also on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_loses_its_lock_before_another_has_it() {
    one_after_the_other(Way::Both).await;
}

/// It can neither renew nor release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_not_heard_loses_its_lock_before_another_has_it() {
    one_after_the_other(Way::ToServer).await;
}

/// The renewals may arrive, but their replies do not: it must not count on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_hears_nothing_loses_its_lock_before_another_has_it() {
    one_after_the_other(Way::ToClient).await;
}

async fn one_after_the_other(way: Way) {
    let Some(island) = island() else { return };
    let server = RedisSetup::new().on(&island).start().await.unwrap();
    let far = client(&server.url()).await;
    // No cut touches a socket.
    let near = client(&format!("redis+unix://{}", server.socket().display())).await;
    let clock = SystemClock::new();

    let held = acquired(&far).await;
    let (mut keeping, mut waiting) = (JoinSet::new(), JoinSet::new());
    keeping.spawn(last_instant(held.held()));
    waiting.spawn({
        let (near, held) = (near.clone(), held.held());
        async move {
            let successor = acquired(&near).await;
            (held.state(), SystemClock::new().boot(), successor)
        }
    });
    let first = clock.boot() + TTL;
    let renewed = within(PATIENCE, "a renewal", held.extended(first)).await;
    assert!(renewed.is_held() && waiting.try_join_next().is_none(), "{renewed:?}");
    island.cut(way).unwrap();
    let cut = clock.boot();

    let (state, granted, successor) =
        within(PATIENCE, "a successor", waiting.join_next()).await.unwrap().unwrap();
    assert_eq!(state, HoldState::Ended(End::Lost(Reason::Expired)), "both hold it");
    let kept = within(PATIENCE, "an end", keeping.join_next()).await.unwrap().unwrap();
    assert!(kept <= granted, "held until {kept:?}, granted at {granted:?}");
    assert!(kept <= cut + TTL, "it counted on what it had not heard: cut at {cut:?}, held until {kept:?}");
    assert!(successor.token() > held.token());

    // Before the heal: what is still said of it comes late, and must not end the successor's.
    drop(held);
    island.heal().unwrap();
    let healed = clock.boot();
    let mut retaking = JoinSet::new();
    retaking.spawn({
        let far = far.clone();
        async move { acquired(&far).await }
    });
    within(PATIENCE, "a queue", async {
        while near.inspect("k").await.unwrap().queue.is_empty() {
            clock.sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(successor.state().is_held() && retaking.try_join_next().is_none(), "both hold it after the heal");
    assert_eq!(successor.release().await.unwrap(), End::Released);
    let again = within(PATIENCE, "the first one again", retaking.join_next()).await.unwrap().unwrap();
    let took = clock.boot().since(healed);
    assert!(took <= 2 * TTL, "it locks again after {took:?}");
    assert_eq!(again.release().await.unwrap(), End::Released);
    acquired(&near).await.release().await.unwrap();
}

/// The last instant until which a hold believed that nobody else could have the lock.
async fn last_instant(held: Held) -> BootTime {
    let mut last = BootTime::ZERO;
    let mut state = held.state();
    while let HoldState::Held { until } | HoldState::AtRisk { until } = state {
        last = last.max(until);
        state = held.extended(until).await;
    }
    last
}

async fn acquired(client: &LockClient) -> Guard {
    let lock = client.mutex("k").unwrap();
    within(PATIENCE, "a grant", lock.acquire()).await.unwrap()
}

async fn client(url: &str) -> LockClient {
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(url).unwrap()).await.unwrap();
    LockClient::builder(backend).ttl(TTL).build().unwrap()
}

async fn within<T>(limit: Duration, what: &str, happens: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = happens => done,
        () = SystemClock::new().sleep(limit) => panic!("{what} does not come within {limit:?}"),
    }
}

/// `None`, and a word about it, where there can be no island.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn island() -> Option<Island> {
    match Island::new() {
        Ok(island) => Some(island),
        Err(error) if *error.kind() == ErrorKind::Unsupported => {
            eprintln!("ignored: {}", error.message());
            None
        }
        Err(error) => panic!("{error}"),
    }
}
