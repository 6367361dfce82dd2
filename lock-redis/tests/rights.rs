//! The rights that the page asks for: they suffice, and none of them can be left out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisCluster, RedisSentinelsSetup, RedisSetup, Reply};
use lock_core::{
    Backend, Certainty, Connector, Domain, Error, Event, EventSink, HolderInfo, LockKey, Query, Result,
    Secret, SessionId, SessionOptions, StoreUrl, Term,
};
use lock_redis::{Credentials, RedisConnector, RedisOptions, redis};

use crate::common::{SECOND, mutex, session_of, sleep};

/// `ACL SETUSER` and what follows it, word by word, as it stands on the page behind these words.
fn on_the_page(begins: &str) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends/redis.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once(&format!("\nACL SETUSER {begins}")).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let (block, _) = block.split_once("\nACL").unwrap_or((block, ""));
    format!("ACL SETUSER {begins}{block}").split_whitespace().map(str::to_owned).collect()
}

fn alone() -> Vec<String> {
    on_the_page("locks reset")
}

/// Those of a single server, and what comes on top of them.
fn with(more: Vec<String>) -> Vec<String> {
    alone().into_iter().chain(more.into_iter().skip(3)).collect()
}

fn without(words: &[String], word: &str) -> Vec<String> {
    words.iter().filter(|other| *other != word).cloned().collect()
}

fn rights(words: &[String]) -> Vec<String> {
    words.iter().filter(|word| word.starts_with(['+', '~', '&'])).cloned().collect()
}

async fn give(server: &Redis, words: &[String]) {
    let done = server.command(words.iter().map(String::as_str)).await.unwrap();
    assert_eq!(done, Reply::Text("OK".into()));
}

/// A client with this account, whose connection is not made yet.
async fn account(server: &Redis, words: &[String]) -> Arc<dyn Backend> {
    give(server, words).await;
    let driver = redis::Client::open(format!("redis://locks:PASSWORD@{}", server.address())).unwrap();
    let options = RedisOptions::new().idle_after(Duration::from_millis(1));
    lock_redis::backend(&driver, options).unwrap()
}

/// Everything that a client does, each at least once.
async fn everything(server: &Redis, backend: &Arc<dyn Backend>, round: usize) -> Result<()> {
    let key = format!("k{round}");
    let claim = |ticket| mutex(&key, ticket).waiting(true);
    let (grants, mut granted) = tokio::sync::mpsc::unbounded_channel();
    let sink = EventSink::new(move |event| {
        if let Event::Granted { .. } = event {
            let _ = grants.send(());
        }
    });
    let open = async |sink| {
        let options = SessionOptions::new(SessionId::random()?, Domain(0), SECOND, HolderInfo::new(1));
        Ok::<_, Error>(backend.open(&options, sink).await?.session)
    };
    let (one, other) = (open(EventSink::new(|_| {})).await?, open(sink).await?);
    one.claim(&claim(1).term(Term::Session { at_least: Duration::from_millis(1) })).await?;
    other.claim(&claim(1)).await?;
    other.claim(&claim(2)).await?;
    other.renew(&[claim(1).reference()]).await?;
    other.release(&claim(2).reference(), Certainty::MaybeInFlight).await?;
    other.renew(&[claim(1).reference()]).await?;
    // Its session has withdrawn a claim: the next one is looked up.
    other.claim(&claim(3)).await?;
    sleep(Duration::from_millis(5)).await;
    one.release(&claim(1).reference(), Certainty::Settled).await?;
    tokio::select! {
        _ = granted.recv() => {}
        () = sleep(SECOND / 2) => return Err(Error::unavailable("nobody told the waiter of its grant")),
    }
    // Some things are done only now and then: the record is given more time in one heartbeat of several.
    for ticket in 10..14 {
        other.claim(&mutex("often", ticket)).await?;
        other.renew(&[mutex("often", ticket).reference()]).await?;
        other.release(&mutex("often", ticket).reference(), Certainty::Settled).await?;
    }
    backend.inspect(&LockKey::new(&key)?).await?;
    backend.list(&Query::new(None, "", 10)).await?;
    backend.force_release(&LockKey::new(&key)?, None).await?;
    assert_eq!(server.command(["SCRIPT", "FLUSH"]).await.unwrap(), Reply::Text("OK".into()));
    one.claim(&claim(5)).await?;
    one.close().await?;
    other.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_on_the_page_suffice_and_each_is_needed() {
    let server = Redis::start().await.unwrap();
    let words = alone();
    everything(&server, &account(&server, &words).await, 0).await.unwrap();
    let mut not_needed = Vec::new();
    for (number, right) in rights(&words).iter().enumerate() {
        let fewer = without(&words, right);
        if everything(&server, &account(&server, &fewer).await, number + 1).await.is_ok() {
            not_needed.push(right.clone());
        }
    }
    assert!(not_needed.is_empty(), "nothing fails without {not_needed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_do_those_behind_sentinels() {
    let setup = RedisSentinelsSetup::new().nodes(RedisSetup::new().password("nodes")).password("sentinels");
    let servers = setup.start().await.unwrap();
    let url = format!("redis+sentinel://locks:PASSWORD@{}/{}", servers.addresses().join(","), servers.name());
    let served = async |nodes: &[String], sentinels: &[String]| {
        for node in servers.nodes() {
            give(&node, nodes).await;
        }
        for sentinel in servers.sentinels() {
            give(sentinel, sentinels).await;
        }
        let watch = Credentials::new(Some("watch".into()), Secret::from("PASSWORD"));
        let options = RedisOptions::new().sentinel_credentials(watch);
        let backend =
            RedisConnector::with_options(options).connect(&mut StoreUrl::parse(&url).unwrap()).await?;
        session_of(&backend, SessionId::random().unwrap(), SECOND).await.map(|_| ())
    };
    let (nodes, sentinels) = (with(on_the_page("locks +role")), on_the_page("watch reset"));
    served(&nodes, &sentinels).await.unwrap();
    served(&without(&nodes, "+role"), &sentinels).await.unwrap_err();
    for right in rights(&sentinels) {
        let answer = served(&nodes, &without(&sentinels, &right)).await;
        // What says how new an answer is is missed only where the answers differ.
        assert_eq!(answer.is_ok(), right == "+sentinel|master", "{right}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_do_those_in_a_cluster() {
    let cluster = RedisCluster::start(2).await.unwrap();
    let nodes = cluster.nodes();
    let url = format!("redis+cluster://locks:PASSWORD@{}", nodes[0].address());
    // A session on each node, and one whose slot is just being moved.
    let served = async |words: &[String], round: usize| {
        for node in &nodes {
            give(node, words).await;
        }
        let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await?;
        let mut moved = 0;
        for number in 0..20 {
            let key = LockKey::new(format!("k{round}-{number}")).unwrap();
            let (id, domain) = (SessionId::random()?, backend.domain(&key));
            let options = SessionOptions::new(id, domain, 60 * SECOND, HolderInfo::new(1));
            let session = backend.open(&options, EventSink::new(|_| {})).await?.session;
            session.claim(&mutex(key.as_str(), 1)).await?;
            let name = format!("fencepost:{{{:02x}}}:s:{id}", domain.0);
            if moved == 0 && cluster.owner(&name).await.unwrap().port() == nodes[0].port() {
                let moving = cluster.begin_moving(&name, &nodes[1]).await.unwrap();
                moving.migrate(&[&name]).await.unwrap();
                let renewed = session.renew(&[]).await.map(|_| ());
                moving.migrate_all().await.unwrap();
                moving.finish().await.unwrap();
                renewed?;
                moved += 1;
            }
            session.close().await?;
        }
        assert_eq!(moved, 1);
        backend.list(&Query::new(None, "", 10)).await.map(|_| ())
    };
    let more = on_the_page("locks ~fencepost:{??}:*");
    let words = with(more.clone());
    served(&words, 0).await.unwrap();
    for (number, right) in rights(&more).iter().enumerate() {
        let answer = served(&without(&words, right), number + 1).await;
        assert!(answer.is_err(), "nothing fails without {right}");
    }
}
