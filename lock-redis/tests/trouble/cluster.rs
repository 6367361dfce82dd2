//! Nodes of a cluster that hang, die, leave, or fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_conformance::Loss;
use lock_conformance::servers::{RedisCluster, RedisClusterSetup, RedisSetup, Reply};
use lock_core::{Clock, SystemClock};
use lock_redis::RedisOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::{SECOND, sleep, text};
use crate::support::{
    backend_of, backend_with, client_of, clients_of, cluster_url, is_held_for, key_at, keys_at, passes,
    record, touch,
};

/// One node of three is hung; nothing that is asked has to do with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_node_is_not_asked_for_what_another_has() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let nodes = cluster.nodes();
    let seeds: Vec<_> = nodes[..3].iter().map(|node| node.address()).collect();
    let (first, second) = (key_at(&cluster, &nodes[0]).await, key_at(&cluster, &nodes[1]).await);
    cluster.lose_owner(&record(&first), Loss::Stopped).await.unwrap();
    let client = client_of(backend_of(&format!("redis+cluster://{}", seeds.join(","))).await, 30 * SECOND);
    client.mutex(&first).unwrap().acquire().await.unwrap().release().await.unwrap();
    client.mutex(&second).unwrap().acquire().await.unwrap().release().await.unwrap();
    let (clock, mut took) = (SystemClock::new(), Vec::new());
    for _ in 0..6 {
        // Somebody looks, and no longer cares.
        touch(client.inspect(&second));
        let asked = clock.boot();
        let answer = client.inspect(&second).await;
        took.push((clock.boot().since(asked), answer.map(|_| ())));
    }
    assert!(took.iter().all(|(time, answer)| answer.is_ok() && *time < SECOND), "{took:?}");
}

/// The same with one that is down, and one attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_is_not_asked_for_what_another_has() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let nodes = cluster.nodes();
    let seeds: Vec<_> = nodes[..3].iter().map(|node| node.address()).collect();
    let (first, second) = (key_at(&cluster, &nodes[0]).await, key_at(&cluster, &nodes[1]).await);
    cluster.lose_owner(&record(&first), Loss::Killed).await.unwrap();
    let client = client_of(backend_of(&format!("redis+cluster://{}", seeds.join(","))).await, 30 * SECOND);
    let mut failed = Vec::new();
    for _ in 0..14 {
        touch(client.inspect(&second));
        match client.mutex(&second).unwrap().try_acquire().await {
            Ok(guard) => drop(guard.unwrap().release().await.unwrap()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// It has no slots any more, knows nobody, and is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_left_the_cluster_does_not_answer_for_it() {
    let cluster = RedisCluster::start(3).await.unwrap();
    let nodes = cluster.nodes();
    let client = client_of(backend_of(&cluster_url(&cluster)).await, 30 * SECOND);
    client.list("", None, 10).await.unwrap();
    let (left, heir) = (nodes[0].clone(), nodes[1].clone());
    assert_eq!(text(&heir, &["CLUSTER", "DELSLOTSRANGE", "0", "5460"]).await, "OK");
    assert_eq!(text(&heir, &["CLUSTER", "ADDSLOTSRANGE", "0", "5460"]).await, "OK");
    let clock = SystemClock::new();
    let end = clock.boot() + 10 * SECOND;
    for node in &nodes {
        while node.command(["CLUSTER", "SLOTS"]).await.unwrap_or(Reply::Nil).clone()
            != heir.command(["CLUSTER", "SLOTS"]).await.unwrap()
            && clock.boot() < end
        {
            sleep(SECOND / 20).await;
        }
    }
    let id = text(&left, &["CLUSTER", "MYID"]).await;
    assert_eq!(text(&left, &["CLUSTER", "RESET", "SOFT"]).await, "OK");
    for node in &nodes[1..] {
        assert_eq!(text(node, &["CLUSTER", "FORGET", &id]).await, "OK");
    }
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(client.list("", None, 10).await.map(|page| page.keys.len()).map_err(|e| e.to_string()));
    }
    assert!(answers.iter().any(Result::is_ok), "{answers:?}");
}

/// Forwards to a server. What the server sends on a connection on which somebody subscribed vanishes, if it is to: the connection
/// stays open, as behind a firewall that has forgotten it.
async fn forwarder(to: String, vanishes: Arc<AtomicBool>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&to).await.unwrap();
            let is_new = vanishes.load(Ordering::SeqCst);
            let (vanishes, news) = (vanishes.clone(), Arc::new(AtomicBool::new(false)));
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let (is_news, fell_silent) = (news.clone(), Arc::new(AtomicBool::new(false)));
            let silent = fell_silent.clone();
            connections.spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    if buffer[..count].windows(10).any(|part| part == b"SSUBSCRIBE") {
                        news.store(true, Ordering::SeqCst);
                    }
                    if !silent.load(Ordering::SeqCst) && to_server.write_all(&buffer[..count]).await.is_err()
                    {
                        return;
                    }
                }
            });
            connections.spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    if !is_new && is_news.load(Ordering::SeqCst) && vanishes.load(Ordering::SeqCst) {
                        fell_silent.store(true, Ordering::SeqCst);
                    }
                    if !fell_silent.load(Ordering::SeqCst)
                        && to_client.write_all(&buffer[..count]).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    (port, tasks)
}

/// The connection for news is dead without a word: that of the commands is well. New connections are well, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_news_that_has_died_without_a_word_is_given_up() {
    let cluster = RedisClusterSetup::new().primaries(1).start().await.unwrap();
    let vanishes = Arc::new(AtomicBool::new(false));
    let (port, _tasks) = forwarder(cluster.nodes()[0].address(), vanishes.clone()).await;
    let options = RedisOptions::new().address_map(move |_, _| ("127.0.0.1".into(), port));
    let ttl = 6 * SECOND;
    let waiter = client_of(backend_with(&format!("redis+cluster://127.0.0.1:{port}"), options).await, ttl);
    let holder = client_of(backend_of(&cluster_url(&cluster)).await, ttl);
    let (clock, mut took) = (SystemClock::new(), Vec::new());
    for round in 0..5 {
        let guard = holder.mutex("k").unwrap().acquire().await.unwrap();
        let lock = waiter.mutex("k").unwrap();
        let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
        while holder.inspect("k").await.unwrap().queue.is_empty() {
            sleep(SECOND / 50).await;
        }
        // The first round is well. Then the connection dies, once.
        vanishes.store(round == 1, Ordering::SeqCst);
        let released = clock.boot();
        guard.release().await.unwrap();
        waiting.join_next().await.unwrap().unwrap().unwrap().release().await.unwrap();
        took.push(clock.boot().since(released));
    }
    // The one that it happens to may be late.
    assert!(took[2..].iter().all(|time| *time < SECOND), "{took:?}");
}

/// A client that has seen three nodes go is as quick as a new one when the fourth goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_lived_for_long_survives_a_failover_as_a_new_one_does() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let nodes = cluster.nodes();
    let seeds: Vec<_> = nodes[..3].iter().map(|node| node.address()).collect();
    let keys = keys_at(&cluster, &nodes[0], 2).await;
    let others = (key_at(&cluster, &nodes[1]).await, key_at(&cluster, &nodes[2]).await);
    let ttl = 12 * SECOND;
    let old = client_of(backend_of(&format!("redis+cluster://{}", seeds.join(","))).await, ttl);
    for key in [&keys[0], &others.0, &others.1] {
        passes(&old, key).await;
        cluster.lose_owner(&record(key), Loss::Stopped).await.unwrap();
        passes(&old, key).await;
    }
    let next = cluster.owner(&record(&keys[0])).await.unwrap();
    let seeds: Vec<_> = [&keys[0], &others.0, &others.1].map(String::as_str).to_vec();
    let mut alive = Vec::new();
    for key in seeds {
        alive.push(cluster.owner(&record(key)).await.unwrap().address());
    }
    let new = client_of(backend_of(&format!("redis+cluster://{}", alive.join(","))).await, ttl);
    let (first, second) = (
        old.mutex(&keys[0]).unwrap().acquire().await.unwrap(),
        new.mutex(&keys[1]).unwrap().acquire().await.unwrap(),
    );
    next.stop().unwrap();
    let clock = SystemClock::new();
    let end = clock.boot() + 2 * ttl;
    while clock.boot() < end {
        sleep(SECOND / 10).await;
    }
    assert!(
        first.state().is_held(),
        "of the old client: {:?}; of the new one: {:?}",
        first.state(),
        second.state()
    );
}

/// A node hangs, and its replica has everything and takes over in two seconds: a quarter of the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_a_failover_that_takes_a_quarter_of_its_lease() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let nodes = cluster.nodes();
    let key = key_at(&cluster, &nodes[0]).await;
    let seeds: Vec<_> = nodes[..3].iter().map(|node| node.address()).collect();
    let client = client_of(backend_of(&format!("redis+cluster://{}", seeds.join(","))).await, 8 * SECOND);
    let guard = client.mutex(&key).unwrap().acquire().await.unwrap();
    nodes[0].stop().unwrap();
    is_held_for(&guard, 10 * SECOND).await;
    assert!(guard.state().is_held(), "{:?}", guard.state());
}

/// What a cluster without one of its primaries still serves can be used, and looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lacks_a_node_can_be_connected_to() {
    let node = RedisSetup::new().arguments(["--cluster-require-full-coverage", "no"]);
    let cluster = RedisClusterSetup::new().nodes(node).primaries(3).start().await.unwrap();
    let nodes = cluster.nodes();
    let key = key_at(&cluster, &nodes[1]).await;
    nodes[0].kill().await.unwrap();
    let url = format!("redis+cluster://{},{}", nodes[1].address(), nodes[2].address());
    let client = client_of(backend_of(&url).await, 10 * SECOND);
    let _guard = client.mutex(&key).unwrap().acquire().await.unwrap();
    let (probe, list) = (client.probe().await, client.list("", None, 10).await);
    assert!(probe.is_ok(), "the facade's connect asks for it: {probe:?}; {list:?}");
}

/// A client with a hold in each domain, and a node that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn holds_in_all_domains_outlive_a_failover() {
    for how in [Loss::Killed, Loss::Stopped] {
        let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
        let nodes = cluster.nodes();
        let seeds: Vec<_> = nodes[..3].iter().map(|node| node.address()).collect();
        let ttl = 12 * SECOND;
        let client = client_of(backend_of(&format!("redis+cluster://{}", seeds.join(","))).await, ttl);
        let mut guards = Vec::new();
        for n in 0..600 {
            guards.push(client.mutex(format!("k{n}")).unwrap().acquire().await.unwrap());
        }
        sleep(SECOND).await;
        match how {
            Loss::Killed => nodes[0].kill().await.unwrap(),
            Loss::Stopped => nodes[0].stop().unwrap(),
        }
        sleep(ttl * 3 / 2).await;
        let lost: Vec<_> =
            guards.iter().filter(|guard| !guard.state().is_held()).map(lock_core::Guard::state).collect();
        client.shutdown(10 * SECOND).await;
        assert!(lost.is_empty(), "{how:?}: {} of 600 {:?}", lost.len(), lost[0]);
    }
}

/// A node that is a replica now is no longer connected to.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_serves_nothing_any_more_is_let_go() {
    let cluster = RedisClusterSetup::new().primaries(3).replicas(1).start().await.unwrap();
    let (node, replica) = (cluster.nodes()[0].clone(), cluster.nodes()[3].clone());
    let key = key_at(&cluster, &node).await;
    let idle = clients_of(&node).await;
    let client = client_of(backend_of(&cluster_url(&cluster)).await, SECOND);
    let guard = client.mutex(&key).unwrap().acquire().await.unwrap();
    let before = clients_of(&node).await;
    assert_eq!(text(&replica, &["CLUSTER", "FAILOVER"]).await, "OK");
    sleep(6 * SECOND).await;
    assert!(guard.state().is_held());
    let after = clients_of(&node).await;
    let _ = client.list("", None, 10).await;
    sleep(SECOND).await;

    assert!(after <= idle + 1, "{idle} {before} {after}");
}
