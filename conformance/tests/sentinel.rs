//! Redis with sentinels, as the harness starts it: another node becomes the primary when that one is lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, Redis, RedisSentinels, RedisSentinelsSetup, RedisSetup, Reply, Tls,
    WallClock,
};
use lock_core::{Clock, ErrorKind, SystemClock};

const PASSWORD: &str = "s3cret \"with\" \\ and \u{00e9}";

#[tokio::test]
async fn sentinels_know_everybody_from_the_start() {
    let all = RedisSentinelsSetup::new().replicas(2).start().await.unwrap();
    assert_eq!((all.nodes().len(), all.sentinels().len()), (3, 3));
    let primary = all.primary().await.unwrap();
    assert_eq!(primary.address(), all.nodes()[0].address());
    assert_eq!(addresses(&all.replicas().await.unwrap()), addresses(&all.nodes()[1..]));
    for sentinel in all.sentinels() {
        let named = sentinel.command(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", all.name()]).await.unwrap();
        assert_eq!(named, Reply::List(vec![text("127.0.0.1"), text(&primary.port().to_string())]));
        let Reply::List(master) = sentinel.command(["SENTINEL", "MASTER", all.name()]).await.unwrap() else {
            unreachable!()
        };
        for told in [["num-slaves", "2"], ["num-other-sentinels", "2"], ["quorum", "2"]] {
            assert!(master.chunks(2).any(|pair| pair == told.map(text)), "{told:?}: {master:?}");
        }
    }
    let addresses: Vec<_> = all.sentinels().iter().map(Redis::address).collect();
    assert_eq!(all.addresses(), addresses);
}

#[tokio::test]
async fn a_primary_is_lost_once_and_again() {
    let setup = RedisSetup::new().password(PASSWORD);
    let all = RedisSentinelsSetup::new().nodes(setup).start().await.unwrap();
    let mut lost = Vec::new();
    for (how, value) in [(Loss::Killed, "first"), (Loss::Stopped, "second"), (Loss::Killed, "third")] {
        let old = all.primary().await.unwrap();
        set(&old, value).await;
        assert_eq!(old.command(["WAIT", "1", "5000"]).await.unwrap(), Reply::Number(1));
        assert_eq!(all.lose_primary(how).await.unwrap().address(), old.address());
        let next = all.primary().await.unwrap();
        assert_eq!(get(&next).await, text(value));
        set(&next, "v").await;
        assert_eq!(all.replicas().await.unwrap().len(), 1);
        lost.push(old.address());
        assert!(!lost.contains(&next.address()), "{lost:?}");
    }
}

#[tokio::test]
async fn what_replicas_do_not_get_is_lost_with_the_primary() {
    let all = RedisSentinelsSetup::new().replicas(2).start().await.unwrap();
    let old = all.primary().await.unwrap();
    set(&old, "before").await;
    all.hold_back_replicas().await.unwrap();
    set(&old, "after").await;
    all.lose_primary(Loss::Killed).await.unwrap();
    let next = all.primary().await.unwrap();
    assert_eq!(get(&next).await, text("before"));
    assert_eq!(all.hold_back_replicas().await.map_err(|error| error.to_string()), Ok(()));
}

#[tokio::test]
async fn a_primary_that_is_cut_off_goes_on_as_one() {
    let setup = RedisSetup::new().password(PASSWORD);
    let all = RedisSentinelsSetup::new().nodes(setup).start().await.unwrap();
    set(&all.primary().await.unwrap(), "before").await;
    let old = all.isolate_primary().await.unwrap();
    let next = all.primary().await.unwrap();
    assert_ne!(next.address(), old.address());
    set(&old, "old").await;
    set(&next, "new").await;
    // The sentinels have found out that it answers nobody of them, and would make a replica of it if they could.
    for sentinel in all.sentinels() {
        let port = old.port().to_string();
        until("it is down for every sentinel", async || {
            let replicas = sentinel.command(["SENTINEL", "REPLICAS", all.name()]).await.unwrap();
            let Reply::List(replicas) = replicas else { return false };
            replicas.iter().any(|replica| {
                let Reply::List(told) = replica else { return false };
                let is_down = |value: &Reply| matches!(value, Reply::Text(it) if it.starts_with("s_down"));
                told.contains(&text(&port)) && told.iter().any(is_down)
            })
        })
        .await;
    }
    assert_eq!((get(&old).await, get(&next).await), (text("old"), text("new")));
    assert!(matches!(old.command(["ROLE"]).await.unwrap(), Reply::List(role) if role[0] == text("master")));
    all.lose_primary(Loss::Killed).await.unwrap();
    assert_ne!(all.primary().await.unwrap().address(), old.address());
}

#[tokio::test]
async fn a_primary_that_lets_everybody_in_is_not_cut_off() {
    let all = RedisSentinels::start().await.unwrap();
    let error = all.isolate_primary().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Misconfigured);
    assert_eq!(all.primary().await.unwrap().address(), all.nodes()[0].address());
}

#[tokio::test]
async fn everybody_speaks_tls_and_has_a_password() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let wall = WallClock::new().unwrap();
    let setup = RedisSetup::new().password("of the nodes").tls(&tls).wall_clock(&wall);
    let setup = RedisSentinelsSetup::new().nodes(setup).password(PASSWORD);
    assert!(!format!("{setup:?}").contains("s3cret"), "{setup:?}");
    let all = setup.start().await.unwrap();
    assert!(!format!("{all:?}").contains("s3cret"), "{all:?}");
    assert!(all.sentinels()[0].url().starts_with("rediss://"));
    let old = all.isolate_primary().await.unwrap();
    set(&old, "old").await;
    set(&all.primary().await.unwrap(), "new").await;
    wall.stop_at(1_500_000_000_000_000).unwrap();
    let Reply::List(time) = all.primary().await.unwrap().command(["TIME"]).await.unwrap() else {
        unreachable!()
    };
    assert_eq!(time[0], text("1500000000"));
}

fn addresses(nodes: &[std::sync::Arc<Redis>]) -> Vec<String> {
    nodes.iter().map(|node| node.address()).collect()
}

async fn set(redis: &Redis, value: &str) {
    assert_eq!(redis.command(["SET", "k", value]).await.unwrap(), text("OK"));
}

async fn get(redis: &Redis) -> Reply {
    redis.command(["GET", "k"]).await.unwrap()
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
