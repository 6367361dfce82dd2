//! Locks in a Redis cluster of three primaries beside bare commands, in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release --bin cluster
//! ```
//!
//! There are two floors: bare commands through the driver's own client for clusters, and over one connection to each node, as a
//! program sends them that knows where each of its keys is. All have their keys in the same slots. What is printed is what is
//! printed for one server; the processor's time is that of all nodes together.

use std::collections::HashSet;

use fencepost_peers::{Bare, Peer, ROUNDS, TTL, connect, locked, tcp};
use lock_conformance::servers::RedisCluster;
use lock_core::{Connector, Lock, LockClient, LockKey, Result, StoreUrl};
use lock_redis::RedisConnector;
use lock_redis::redis::aio::MultiplexedConnection;
use lock_redis::redis::cluster::ClusterClient;
use lock_redis::redis::cluster_async::ClusterConnection;

/// As many as there are tasks at most.
const KEYS: usize = 64;

/// What one task works on: keys in one slot.
struct Place {
    driver: Bare<ClusterConnection>,
    by_hand: Bare<MultiplexedConnection>,
    ours: Lock,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cluster = RedisCluster::start(3).await?;
    let servers: Vec<_> =
        cluster.nodes().iter().map(|node| Ok(node.server()?.pid())).collect::<Result<_>>()?;
    let places = places(&cluster).await?;
    // Every session is open, every script loaded and every way known before the clock starts.
    for place in &places {
        place.driver.clone().cycle().await?;
        place.by_hand.clone().cycle().await?;
        locked(place.ours.clone()).await?;
    }
    for tasks in [KEYS, 1] {
        let mut peers = ["driver", "by hand", "fencepost"].map(Peer::new);
        let [driver, by_hand, fencepost] = &mut peers;
        for _ in 0..ROUNDS {
            driver
                .plays(&servers, tasks, |task| {
                    let bare = places[task].driver.clone();
                    move || bare.clone().cycle()
                })
                .await?;
            by_hand
                .plays(&servers, tasks, |task| {
                    let bare = places[task].by_hand.clone();
                    move || bare.clone().cycle()
                })
                .await?;
            fencepost
                .plays(&servers, tasks, |task| {
                    let lock = places[task].ours.clone();
                    move || locked(lock.clone())
                })
                .await?;
        }
        println!("{tasks} tasks, medians:");
        let [driver, by_hand, ours] = peers.map(|peer| peer.median().rate);
        println!(
            "fencepost: {:.2} of the driver, {:.2} of what is sent by hand\n",
            ours / driver,
            ours / by_hand
        );
    }
    Ok(())
}

/// The floors' keys have the hash tags of ours, and so lie in the same slots.
async fn places(cluster: &RedisCluster) -> Result<Vec<Place>> {
    let nodes = cluster.nodes();
    let urls: Vec<_> = nodes.iter().map(|node| node.url()).collect();
    let driver = ClusterClient::builder(urls.iter().map(String::as_str)).tcp_settings(tcp()).build();
    let driver = driver.expect("its settings").get_async_connection().await.expect("a connection");
    let mut by_node = Vec::new();
    for url in &urls {
        by_node.push(connect(url).await);
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    let mut url = StoreUrl::parse(&format!("redis+cluster://{}", addresses.join(",")))?;
    let backend = RedisConnector::new().connect(&mut url).await?;
    let client = LockClient::builder(backend.clone()).ttl(TTL).build()?;
    let (mut places, mut domains) = (Vec::new(), HashSet::new());
    let mut keys_at = vec![0; nodes.len()];
    for task in 0..KEYS {
        let key = LockKey::new(format!("ours-{task}"))?;
        let domain = backend.domain(&key);
        let tag = format!("{{{:02x}}}", domain.0);
        let owner = cluster.owner(&tag).await?.port();
        let node = nodes.iter().position(|node| node.port() == owner).expect("one of them");
        keys_at[node] += 1;
        domains.insert(domain);
        places.push(Place {
            driver: Bare::new(driver.clone(), &format!("driver:{tag}:{task}")),
            by_hand: Bare::new(by_node[node].clone(), &format!("by-hand:{tag}:{task}")),
            ours: client.mutex(key)?,
        });
    }
    println!("{KEYS} keys in {} domains; at each node: {keys_at:?}\n", domains.len());
    Ok(places)
}
