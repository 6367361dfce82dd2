//! Three servers, of which some are lost, cut off, or left without the others: each trouble is reported as what it is, and nobody
//! believes in a hold that another one may have.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{ZooKeeper, ZooKeeperEnsemble, ZooKeeperEnsembleSetup, ZooKeeperSetup};
use lock_core::{
    Backend, BootTime, Clock, Connector, End, Error, ErrorKind, Guard, HoldState, LockClient, Reason, Result,
    StoreUrl, SystemClock,
};
use lock_zookeeper::zookeeper_client::Client;
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};
use tokio::task::JoinSet;

const TICK: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(40);

/// A server that is cut off from the others notices it after so many ticks, and goes on answering pings until then.
async fn ensemble(notices_after: u32) -> ZooKeeperEnsemble {
    let member = ZooKeeperSetup::new().tick(TICK).setting("syncLimit", notices_after.to_string());
    ZooKeeperEnsembleSetup::new().each(member).start().await.unwrap()
}

async fn backend(addresses: &str) -> Arc<dyn Backend> {
    let options = ZooKeeperOptions::new().tick(TICK);
    let mut url = StoreUrl::parse(&format!("zookeeper://{addresses}")).unwrap();
    ZooKeeperConnector::with_options(options).connect(&mut url).await.unwrap()
}

async fn client(addresses: &str, ttl: Duration) -> LockClient {
    LockClient::builder(backend(addresses).await).ttl(ttl).call_timeout(2 * SECOND).build().unwrap()
}

/// All but this one.
fn others(ensemble: &ZooKeeperEnsemble, member: &ZooKeeper) -> String {
    let addresses = ensemble.members().iter().map(|other| other.address()).collect::<Vec<_>>();
    addresses.into_iter().filter(|address| *address != member.address()).collect::<Vec<_>>().join(",")
}

async fn acquired(client: &LockClient, key: &str) -> Guard {
    within("a grant", async {
        loop {
            match client.mutex(key).unwrap().acquire().await {
                Ok(guard) => return guard,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    })
    .await
}

async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = happens => done,
        () = SystemClock::new().sleep(PATIENCE) => panic!("{what} does not come within {PATIENCE:?}"),
    }
}

async fn renewed(guard: &Guard) {
    for _ in 0..2 {
        let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
            panic!("{:?}", guard.state());
        };
        assert!(within("a renewal", guard.extended(until)).await.is_held());
    }
}

fn now() -> BootTime {
    SystemClock::new().boot()
}

/// Its own server goes on answering pings, so that the driver knows of nothing. The others end the session; and the holder has
/// given up before they do.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_server_is_cut_off_gives_up_before_another_is_granted_its_lock() {
    let ensemble = ensemble(100).await;
    let (leader, follower) = (ensemble.leader().await.unwrap(), ensemble.follower().await.unwrap());
    let holder = client(&follower.address(), 4 * SECOND).await;
    let other = client(&others(&ensemble, &follower), 4 * SECOND).await;
    let held = acquired(&holder, "k").await;
    renewed(&held).await;
    let lock = other.mutex("k").unwrap();
    let mut waiting = JoinSet::from_iter([async move { (lock.acquire().await, now()) }]);
    let ending = held.ending();
    let mut ends = JoinSet::from_iter([async move { (ending.await, now()) }]);
    ensemble.isolate(&follower).unwrap();
    let error = holder.mutex("other").unwrap().try_acquire().await.unwrap_err();
    assert!(error.is_retryable() && error.message().contains("quorum"), "{error}");
    assert!(follower.asked("ruok").await.unwrap().contains("imok"));
    let (end, ended_at) = within("the end of the hold", ends.join_next()).await.unwrap().unwrap();
    assert_eq!(end, End::Lost(Reason::Expired));
    let (granted, granted_at) = within("the successor", waiting.join_next()).await.unwrap().unwrap();
    assert!(ended_at < granted_at, "it was granted {:?} before", ended_at.since(granted_at));
    assert!(granted.unwrap().token() > held.token());
    assert_eq!(leader.mode().await.unwrap(), "leader");
    ensemble.heal().await.unwrap();
    // What the driver had been asked meanwhile harms nobody.
    acquired(&holder, "other").await.release().await.unwrap();
}

/// A leader that is cut off still believes for a while that it leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_grants_nothing() {
    let ensemble = ensemble(20).await;
    let leader = ensemble.leader().await.unwrap();
    let (old, new) =
        (client(&leader.address(), 6 * SECOND).await, client(&others(&ensemble, &leader), 6 * SECOND).await);
    acquired(&old, "first").await.release().await.unwrap();
    ensemble.isolate(&leader).unwrap();
    let lock = old.mutex("k").unwrap();
    let mut late = JoinSet::from_iter([async move { (lock.try_acquire().await, now()) }]);
    let held = acquired(&new, "k").await;
    let (attempt, _) = within("an answer", late.join_next()).await.unwrap().unwrap();
    assert!(attempt.is_err() || attempt.is_ok_and(|attempt| attempt.is_err()));
    renewed(&held).await;
    ensemble.heal().await.unwrap();
    renewed(&held).await;
    held.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_leader_costs_nobody_a_hold_or_a_place() {
    let ensemble = ensemble(4).await;
    let (holder, waiter) =
        (client(&ensemble.endpoints(), 10 * SECOND).await, client(&ensemble.endpoints(), 10 * SECOND).await);
    let mut last = None;
    for how in [Loss::Killed, Loss::Stopped] {
        let held = acquired(&holder, "k").await;
        assert!(Some(held.token()) > last, "after a failover too");
        let lock = waiter.mutex("k").unwrap();
        let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
        within("a place in the queue", async {
            while holder.inspect("k").await.unwrap().queue.is_empty() {
                SystemClock::new().sleep(SECOND / 100).await;
            }
        })
        .await;
        ensemble.lose_leader(how).await.unwrap();
        renewed(&held).await;
        held.release().await.unwrap();
        let next = within("the waiter's turn", waiting.join_next()).await.unwrap().unwrap().unwrap();
        last = Some(next.token());
        next.release().await.unwrap();
        ensemble.heal().await.unwrap();
    }
}

/// It is told by the servers, and does not have to wait for its own clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_another_client_takes_over_and_ends_is_told() {
    let ensemble = ensemble(4).await;
    let holder = client(&ensemble.endpoints(), 30 * SECOND).await;
    let held = acquired(&holder, "k").await;
    let driver = Client::connect(&ensemble.endpoints()).await.unwrap();
    let own = format!("/fencepost/sessions/{}", held.grant().session);
    let number = driver.check_stat(&own).await.unwrap().unwrap().ephemeral_owner;
    let before = now();
    ensemble.leader().await.unwrap().end_session(number).await.unwrap();
    assert_eq!(within("the news", held.ending()).await, End::Lost(Reason::SessionEnded));
    assert!(now().since(before) < 10 * SECOND);
    acquired(&holder, "k").await.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_or_a_server_the_error_says_which() {
    let ensemble = ensemble(4).await;
    let client = client(&ensemble.endpoints(), 10 * SECOND).await;
    acquired(&client, "k").await.release().await.unwrap();
    // Two that stand still: nobody is told anything by anybody.
    let members = ensemble.members();
    for member in &members[1..] {
        member.stop().await.unwrap();
    }
    let error = refused(&client).await.unwrap_err();
    assert!(error.is_retryable() && error.message().contains("quorum"), "{error}");
    for member in &members[1..] {
        member.go_on().unwrap();
    }
    ensemble.is_led().await.unwrap();
    acquired(&client, "k").await.release().await.unwrap();

    ensemble.kill().await.unwrap();
    let suspended = within("the end of the connection", async {
        loop {
            let error = refused(&client).await.unwrap_err();
            assert!(error.is_retryable(), "{error:?}");
            if error.message().contains("suspended") {
                return error;
            }
        }
    })
    .await;
    assert_eq!(suspended.kind(), &ErrorKind::Unavailable, "{suspended}");
    ensemble.start_again().await.unwrap();
    acquired(&client, "k").await.release().await.unwrap();
}

async fn refused(client: &LockClient) -> Result<(), Error> {
    client.mutex("k").unwrap().try_acquire().await.map(drop)
}
