//! Slots that move, and nodes that become primary again.

use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{RedisCluster, RedisClusterSetup};
use lock_core::{Certainty, Clock, SystemClock};
use lock_redis::RedisOptions;

use crate::common::{SECOND, mutex, sleep, text, token};
use crate::support::{
    backend_of, backend_with, client_of, cluster_url, deaf, is_held_for, key_at, open, record,
};

/// ADR 0012: a token is foreseen only over the connection on which the last was granted. A node of a cluster that becomes a replica
/// and a primary again has kept that connection open.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_rise_when_a_node_of_a_cluster_is_primary_again() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let node = cluster.nodes()[0].clone();
    let key = key_at(&cluster, &node).await;
    let (early, late) = (backend_of(&cluster_url(&cluster)).await, backend_of(&cluster_url(&cluster)).await);
    let early = open(&early, &key, 120 * SECOND, deaf()).await;
    let late = open(&late, &key, 120 * SECOND, deaf()).await;
    let first = token(&early.claim(&mutex(&key, 1)).await.unwrap());
    early.release(&mutex(&key, 1).reference(), Certainty::Settled).await.unwrap();
    // By hand, in an orderly way: the replica is primary.
    let replica = cluster.nodes()[3].clone();
    assert_eq!(text(&replica, &["CLUSTER", "FAILOVER"]).await, "OK");
    while cluster.owner(&record(&key)).await.unwrap().port() != replica.port()
        || !text(&node, &["INFO", "replication"]).await.contains("master_link_status:up")
    {
        sleep(SECOND / 20).await;
    }
    // Heartbeats go there.
    early.renew(&[]).await.unwrap();
    // It grants what its replica, the first primary, does not hear of, and is killed.
    cluster.hold_back_replicas(&record(&key)).await.unwrap();
    let lost = token(&late.claim(&mutex(&key, 1)).await.unwrap());
    assert!(lost > first);
    cluster.lose_owner(&record(&key), Loss::Killed).await.unwrap();
    assert_eq!(cluster.owner(&record(&key)).await.unwrap().port(), node.port());
    let mut second = None;
    while second.is_none() {
        match early.claim(&mutex(&key, 2)).await {
            Ok(claimed) => second = Some(token(&claimed)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    assert!(second.unwrap() > lost, "first {first}, lost {lost}, then {second:?}: the clocks agree");
}

/// A withdrawn claim stays withdrawn, for as long as its session lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_outlives_the_moving_of_its_slot() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (from, to) = (cluster.nodes()[0].clone(), cluster.nodes()[1].clone());
    let key = key_at(&cluster, &from).await;
    let backend = backend_of(&cluster_url(&cluster)).await;
    let session = open(&backend, &key, SECOND, deaf()).await;
    session.release(&mutex(&key, 5).reference(), Certainty::MaybeInFlight).await.unwrap();
    let moving = cluster.begin_moving(&record(&key), &to).await.unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + SECOND * 5 / 2;
    while clock.boot() < end {
        session.renew(&[]).await.unwrap();
        sleep(SECOND / 4).await;
    }
    moving.migrate_all().await.unwrap();
    moving.finish().await.unwrap();
    session.renew(&[]).await.unwrap();
    let claimed = session.claim(&mutex(&key, 5)).await;
    assert!(claimed.is_err(), "it was withdrawn for good: {claimed:?}");
}

/// While its slot moves a hold is kept, also for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_kept_while_its_slot_moves_for_long() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (from, to) = (cluster.nodes()[0].clone(), cluster.nodes()[1].clone());
    let key = key_at(&cluster, &from).await;
    let short = || RedisOptions::new().idle_after(Duration::from_millis(1));
    let backend = backend_with(&cluster_url(&cluster), short()).await;
    let (holder, other) = (client_of(backend.clone(), SECOND / 2), client_of(backend, SECOND / 2));
    let guard = holder.mutex(&key).unwrap().acquire().await.unwrap();
    assert!(other.mutex(&key).unwrap().try_acquire().await.unwrap().is_err());
    let moving = cluster.begin_moving(&record(&key), &to).await.unwrap();
    // Sixteen TTLs.
    is_held_for(&guard, 8 * SECOND).await;
    moving.migrate_all().await.unwrap();
    moving.finish().await.unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + 2 * SECOND;
    while clock.boot() < end {
        if let Ok(Ok(second)) = other.mutex(&key).unwrap().try_acquire().await {
            let state = guard.state();
            assert!(!state.is_held(), "two hold it: {} ({state:?}) and {}", guard.token(), second.token());
            unreachable!("it was lost meanwhile");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_while_the_slot_of_one_moves() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (from, to) = (cluster.nodes()[0].clone(), cluster.nodes()[1].clone());
    let (moved, stays) = (key_at(&cluster, &from).await, key_at(&cluster, &to).await);
    let client = client_of(backend_of(&cluster_url(&cluster)).await, 30 * SECOND);
    let _guards = (
        client.mutex(&moved).unwrap().acquire().await.unwrap(),
        client.mutex(&stays).unwrap().acquire().await.unwrap(),
    );
    let _moving = cluster.begin_moving(&record(&moved), &to).await.unwrap();
    let listed = client.list("", None, 10).await;
    assert!(listed.is_ok(), "{listed:?}");
}

/// The same as with a node that is primary again, by moving the slot: away, where a grant is lost, and back.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_rise_when_a_slot_comes_back() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let (node, other) = (cluster.nodes()[0].clone(), cluster.nodes()[1].clone());
    let key = key_at(&cluster, &node).await;
    let (early, late) = (backend_of(&cluster_url(&cluster)).await, backend_of(&cluster_url(&cluster)).await);
    let early = open(&early, &key, 120 * SECOND, deaf()).await;
    let late = open(&late, &key, 120 * SECOND, deaf()).await;
    let first = token(&early.claim(&mutex(&key, 1)).await.unwrap());
    early.release(&mutex(&key, 1).reference(), Certainty::Settled).await.unwrap();
    cluster.move_slot_of(&record(&key), &other).await.unwrap();
    early.renew(&[]).await.unwrap();
    cluster.hold_back_replicas(&record(&key)).await.unwrap();
    let lost = token(&late.claim(&mutex(&key, 1)).await.unwrap());
    cluster.lose_owner(&record(&key), Loss::Killed).await.unwrap();
    let mut moved = cluster.move_slot_of(&record(&key), &node).await;
    while moved.is_err() {
        moved = cluster.move_slot_of(&record(&key), &node).await;
    }
    let mut second = None;
    while second.is_none() {
        match early.claim(&mutex(&key, 2)).await {
            Ok(claimed) => second = Some(token(&claimed)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    assert!(second.unwrap() > lost, "first {first}, lost {lost}, then {second:?}: the clocks agree");
}

/// While the slot of one domain moves, everybody else can come in.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_be_opened_while_a_slot_moves() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let zero = "fencepost:{00}:clock";
    let owner = cluster.owner(zero).await.unwrap();
    let to = cluster.nodes().iter().find(|node| node.port() != owner.port()).unwrap().clone();
    let _moving = cluster.begin_moving(zero, &to).await.unwrap();
    let client = client_of(backend_of(&cluster_url(&cluster)).await, 10 * SECOND);
    let clock = SystemClock::new();
    let begun = clock.boot();
    let opened = client.open().await;
    let took = clock.boot().since(begun);
    assert!(opened.is_ok(), "{took:?} {opened:?}");
}
