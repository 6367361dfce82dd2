//! A cluster: who has which key, and what happens while that changes.

mod common;

use lock_conformance::servers::RedisCluster;
use lock_core::{Connector, LockClient, StoreUrl};
use lock_redis::RedisConnector;

use crate::common::SECOND;

#[tokio::test(flavor = "multi_thread")]
async fn keys_lie_on_all_nodes_and_each_is_locked() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let url = format!("redis+cluster://{}", cluster.nodes()[0].address());
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap();
    let client = LockClient::builder(backend).ttl(5 * SECOND).build().unwrap();
    let mut guards = Vec::new();
    for number in 0..50 {
        let key = format!("k{number}");
        let guard = client.mutex(&key).unwrap().acquire().await.unwrap();
        assert!(client.mutex(&key).unwrap().try_acquire().await.unwrap().is_err());
        guards.push(guard);
    }
    assert_eq!(client.list("", None, 100).await.unwrap().keys.len(), 50);
    let waiting = client.mutex("k7").unwrap();
    let waiting = tokio::task::JoinSet::from_iter([async move { waiting.acquire().await }]);
    for guard in guards {
        guard.release().await.unwrap();
    }
    let granted = waiting.join_all().await.pop().unwrap().unwrap();
    granted.release().await.unwrap();
}
