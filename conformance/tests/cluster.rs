//! A Redis cluster that the harness starts: whole, shared by its nodes, and hurt by the end of one.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::servers::{Redis, RedisCluster, Reply};
use lock_core::{Clock, SystemClock};

/// Whichever node it is asked of: its own, or a word on where the key lies.
async fn set(node: &Redis, key: &str) -> Reply {
    match node.command(["SET", key, "v"]).await {
        Ok(reply) => reply,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn each_key_lies_on_one_node_and_the_others_say_on_which() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let mut owners = [0; 3];
    for number in 0..60 {
        let key = format!("k{number}");
        let mut answers = Vec::new();
        for node in cluster.nodes() {
            answers.push(set(node, &key).await);
        }
        let owner = answers.iter().position(|answer| *answer == Reply::Text("OK".into())).unwrap();
        owners[owner] += 1;
        let address = cluster.nodes()[owner].address();
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
async fn a_node_that_is_gone_takes_its_part_with_it_until_it_is_back() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let (first, others) = cluster.nodes().split_first().unwrap();
    first.kill().await.unwrap();
    let is_down =
        async || matches!(set(&others[0], "k1").await, Reply::Error(it) if it.starts_with("CLUSTERDOWN"));
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !is_down().await {
        assert!(clock.boot() < end, "its part is still served");
    }
    first.start_again().await.unwrap();
    while is_down().await {
        assert!(clock.boot() < end, "its part is not served again");
    }
}
