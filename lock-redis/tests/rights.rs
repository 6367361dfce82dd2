//! The rights that the page asks for: they suffice, and none of them can be left out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Redis, Reply};
use lock_core::{
    Backend, Certainty, Domain, Error, Event, EventSink, HolderInfo, LockKey, Query, Result, SessionId,
    SessionOptions, Term,
};
use lock_redis::{RedisOptions, redis};

use crate::common::{SECOND, mutex, sleep};

/// `ACL SETUSER locks` and what follows it, word by word, as it stands on the page.
fn on_the_page() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends/redis.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once("```\nACL SETUSER locks ").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let words = ["ACL", "SETUSER", "locks"].into_iter().chain(block.split_whitespace());
    words.map(str::to_owned).collect()
}

/// A client with this account, whose connection is not made yet.
async fn account(server: &Redis, words: &[String]) -> Arc<dyn Backend> {
    let done = server.command(words.iter().map(String::as_str)).await.unwrap();
    assert_eq!(done, Reply::Text("OK".into()));
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
    let words = on_the_page();
    everything(&server, &account(&server, &words).await, 0).await.unwrap();
    let mut not_needed = Vec::new();
    for (number, word) in words.iter().enumerate().filter(|(_, word)| word.starts_with(['+', '~', '&'])) {
        let without: Vec<_> = words.iter().filter(|other| *other != word).cloned().collect();
        if everything(&server, &account(&server, &without).await, number).await.is_ok() {
            not_needed.push(word);
        }
    }
    assert!(not_needed.is_empty(), "nothing fails without {not_needed:?}");
}
