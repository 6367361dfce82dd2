//! A Redis cluster that the harness starts: whole, shared by its nodes, hurt by the end of one, and moved about.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, Redis, RedisCluster, RedisClusterSetup, RedisSetup, Reply, Tls, WallClock,
};
use lock_core::{Clock, ErrorKind, SystemClock};

const PASSWORD: &str = "s3cret \"with\" \\ and \u{00e9}";

#[tokio::test]
async fn each_key_lies_on_one_node_and_the_others_say_on_which() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let nodes = cluster.nodes();
    let mut owners = [0; 3];
    for number in 0..60 {
        let key = format!("k{number}");
        let mut answers = Vec::new();
        for node in &nodes {
            answers.push(set(node, &key, "v").await);
        }
        let owner = answers.iter().position(|answer| *answer == text("OK")).unwrap();
        owners[owner] += 1;
        let address = nodes[owner].address();
        assert_eq!(cluster.owner(&key).await.unwrap().address(), address);
        for (_, answer) in answers.iter().enumerate().filter(|(number, _)| *number != owner) {
            assert!(
                matches!(answer, Reply::Error(it) if it.starts_with("MOVED") && it.ends_with(&address)),
                "{key} lies at {address}: {answer:?}"
            );
        }
    }
    assert!(owners.iter().all(|keys| *keys > 0), "{owners:?}");
}

#[tokio::test]
async fn a_cluster_goes_by_the_clock_that_is_shown_to_it() {
    let wall = WallClock::new().unwrap();
    let setup = RedisSetup::new().wall_clock(&wall);
    let cluster = RedisClusterSetup::new().nodes(setup).replicas(1).start().await.unwrap();
    let (before, clock) = (seconds(&cluster.nodes()[0]).await, SystemClock::new());
    let machine = clock.wall_micros() / 1_000_000;
    assert!(before.abs_diff(machine) <= 1, "{before} is not {machine}");
    let owner = cluster.owner("k").await.unwrap();
    assert_eq!(set(&owner, "k", "v").await, text("OK"));
    wall.stop_at(1_500_000_000_000_000).unwrap();
    for node in cluster.nodes() {
        assert_eq!(seconds(&node).await, 1_500_000_000);
    }
}

#[tokio::test]
async fn a_node_that_is_gone_takes_its_part_with_it_until_it_is_back() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let nodes = cluster.nodes();
    let (first, others) = nodes.split_first().unwrap();
    first.kill().await.unwrap();
    let is_down = async || begins(&set(&others[0], "k1", "v").await, "CLUSTERDOWN");
    until("its part is not served any more", is_down).await;
    first.start_again().await.unwrap();
    until("its part is served again", async || !is_down().await).await;
}

#[tokio::test]
async fn a_replica_takes_over_for_a_node_that_is_lost_once_and_again() {
    let setup = RedisSetup::new().password(PASSWORD);
    let cluster = RedisClusterSetup::new().nodes(setup).replicas(1).start().await.unwrap();
    assert_eq!(cluster.nodes().len(), 6);
    for (how, value) in [(Loss::Killed, "first"), (Loss::Stopped, "second")] {
        let owner = cluster.owner("k").await.unwrap();
        assert_eq!(set(&owner, "k", value).await, text("OK"));
        assert_eq!(owner.command(["WAIT", "1", "5000"]).await.unwrap(), Reply::Number(1));
        let lost = cluster.lose_owner("k", how).await.unwrap();
        assert_eq!(lost.address(), owner.address());
        let next = cluster.owner("k").await.unwrap();
        assert_ne!(next.address(), lost.address());
        assert_eq!(get(&next, "k").await, text(value));
        assert_eq!(set(&next, "k", "v").await, text("OK"));
    }
}

#[tokio::test]
async fn a_node_that_is_cut_off_from_the_others_stops_to_serve_and_is_replaced() {
    let cluster = RedisClusterSetup::new().replicas(1).start().await.unwrap();
    let old = cluster.owner("k").await.unwrap();
    assert_eq!(set(&old, "k", "v").await, text("OK"));
    assert_eq!(old.command(["WAIT", "1", "5000"]).await.unwrap(), Reply::Number(1));
    assert_eq!(cluster.isolate_owner("k").await.unwrap().address(), old.address());
    let next = cluster.owner("k").await.unwrap();
    assert_ne!(next.address(), old.address());
    assert_eq!(set(&next, "k", "new").await, text("OK"));
    until("it has noticed", async || begins(&set(&old, "k", "old").await, "CLUSTERDOWN")).await;
    let Reply::List(role) = reply(&old, &["ROLE"]).await else { panic!("no role") };
    assert_eq!((&role[0], &role[2]), (&text("master"), &Reply::List(Vec::new())), "it is not alone");
}

#[tokio::test]
async fn a_replica_that_is_held_back_takes_over_without_what_it_did_not_get() {
    let cluster = RedisClusterSetup::new().start().await.unwrap();
    let owner = cluster.owner("k").await.unwrap();
    assert_eq!(cluster.hold_back_replicas("k").await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    assert_eq!(set(&owner, "k", "before").await, text("OK"));
    let replica = cluster.add_replica("k").await.unwrap();
    cluster.hold_back_replicas("k").await.unwrap();
    assert_eq!(set(&owner, "k", "after").await, text("OK"));
    let log = replica.directory().join("server.log");
    let has_tried = async || std::fs::read_to_string(&log).unwrap().contains("Unable to AUTH");
    until("the replica has tried to come back", has_tried).await;
    cluster.lose_owner("k", Loss::Killed).await.unwrap();
    let next = cluster.owner("k").await.unwrap();
    assert_eq!(next.address(), replica.address());
    assert_eq!(get(&next, "k").await, text("before"));
}

#[tokio::test]
async fn a_slot_moves_with_its_keys() {
    let setup = RedisSetup::new().password(PASSWORD);
    let cluster = RedisClusterSetup::new().nodes(setup).start().await.unwrap();
    let (from, to) = two(&cluster, "{k}").await;
    for number in 0..250 {
        assert_eq!(set(&from, &format!("{{k}}{number}"), "v").await, text("OK"));
    }
    cluster.move_slot_of("{k}", &to).await.unwrap();
    assert_eq!(cluster.owner("{k}").await.unwrap().address(), to.address());
    for number in 0..250 {
        assert_eq!(get(&to, &format!("{{k}}{number}")).await, text("v"));
    }
    assert!(begins(&get(&from, "{k}1").await, "MOVED"));
    let again = cluster.move_slot_of("{k}", &to).await.unwrap_err();
    assert_eq!(again.kind(), &ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_slot_that_moves_is_here_and_there() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (from, to) = two(&cluster, "{k}").await;
    for key in ["{k}1", "{k}2", "{k}3"] {
        assert_eq!(set(&from, key, "v").await, text("OK"));
    }
    let moving = cluster.begin_moving("{k}", &to).await.unwrap();
    assert_eq!((moving.from().address(), moving.to().address()), (from.address(), to.address()));
    moving.migrate(&["{k}1", "{k}none"]).await.unwrap();
    assert!(begins(&get(&from, "{k}1").await, "ASK "));
    assert_eq!(get(&from, "{k}2").await, text("v"));
    let torn = from.command(["MGET", "{k}1", "{k}2"]).await.unwrap();
    assert!(begins(&torn, "TRYAGAIN"), "{torn:?}");
    assert!(begins(&get(&to, "{k}1").await, "MOVED"));
    moving.migrate_all().await.unwrap();
    assert!(begins(&get(&from, "{k}3").await, "ASK "));
    moving.finish().await.unwrap();
    assert!(begins(&get(&from, "{k}3").await, "MOVED"));
    assert_eq!(get(&to, "{k}3").await, text("v"));
}

#[tokio::test]
async fn a_slot_is_not_given_away_with_keys_in_it() {
    let cluster = RedisCluster::start(2).await.unwrap();
    let (from, to) = two(&cluster, "k").await;
    assert_eq!(set(&from, "k", "v").await, text("OK"));
    let error = cluster.begin_moving("k", &to).await.unwrap().finish().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidInput);
    assert_eq!(cluster.owner("k").await.unwrap().address(), from.address());
    assert_eq!(get(&from, "k").await, text("v"));
}

#[tokio::test]
async fn a_cluster_speaks_tls_on_all_of_its_ways() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let setup = RedisSetup::new().password(PASSWORD).tls(&tls);
    let cluster = RedisClusterSetup::new().nodes(setup).replicas(1).start().await.unwrap();
    let (from, to) = two(&cluster, "k").await;
    assert_eq!(set(&from, "k", "v").await, text("OK"));
    cluster.move_slot_of("k", &to).await.unwrap();
    assert_eq!(to.command(["WAIT", "1", "5000"]).await.unwrap(), Reply::Number(1));
    cluster.lose_owner("k", Loss::Killed).await.unwrap();
    let next = cluster.owner("k").await.unwrap();
    assert_eq!(get(&next, "k").await, text("v"));
    assert!(next.url().starts_with("rediss://"), "{}", next.url());
}

/// The primary that serves a key, and one that does not.
async fn two(cluster: &RedisCluster, key: &str) -> (std::sync::Arc<Redis>, std::sync::Arc<Redis>) {
    let from = cluster.owner(key).await.unwrap();
    let to = cluster.nodes().into_iter().find(|node| node.address() != from.address()).unwrap();
    (from, to)
}

async fn seconds(node: &Redis) -> u64 {
    match reply(node, &["TIME"]).await {
        Reply::List(time) => match &time[0] {
            Reply::Text(seconds) => seconds.parse().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Whichever node it is asked of: its own, or a word on where the key lies.
async fn set(node: &Redis, key: &str, value: &str) -> Reply {
    reply(node, &["SET", key, value]).await
}

async fn get(node: &Redis, key: &str) -> Reply {
    reply(node, &["GET", key]).await
}

async fn reply(node: &Redis, words: &[&str]) -> Reply {
    match node.command(words.iter().copied()).await {
        Ok(reply) => reply,
        Err(error) => panic!("{error}"),
    }
}

fn begins(reply: &Reply, with: &str) -> bool {
    matches!(reply, Reply::Error(it) if it.starts_with(with))
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
