//! The rights that the page asks for: they suffice, and none of them can be left out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Etcd, EtcdSetup, Permission};
use lock_core::{
    Backend, Certainty, Claim, Claimed, Clock, Connector, Domain, Error, ErrorKind, Event, EventSink,
    HolderInfo, LockKey, Mode, Permit, Query, Result, SessionId, SessionOptions, StoreUrl, SystemClock, Term,
    Ticket,
};
use lock_etcd::EtcdConnector;
use serde_json::json;

const ROOT: &str = "hunter2";

/// What the page grants: the word, and the prefix.
fn on_the_page() -> Vec<(Permission, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backends/etcd.md");
    let page = std::fs::read_to_string(page).unwrap();
    let grants = page.lines().filter_map(|line| line.strip_prefix("etcdctl role grant-permission locks "));
    let grants: Vec<_> = grants
        .map(|grant| {
            let words: Vec<_> = grant.split_whitespace().collect();
            let ["--prefix=true", word, prefix] = words[..] else { panic!("{grant}") };
            let permission = match word {
                "read" => Permission::Read,
                "write" => Permission::Write,
                "readwrite" => Permission::ReadWrite,
                other => panic!("{other}"),
            };
            (permission, prefix.to_owned())
        })
        .collect();
    assert!(!grants.is_empty());
    grants
}

/// A client with just these rights.
async fn account(server: &Etcd, name: &str, rights: &[(Permission, String)]) -> Arc<dyn Backend> {
    server.call("/v3/auth/user/add", &json!({ "name": name, "password": name })).await.unwrap();
    server.call("/v3/auth/role/add", &json!({ "name": name })).await.unwrap();
    server.call("/v3/auth/user/grant", &json!({ "user": name, "role": name })).await.unwrap();
    for (permission, prefix) in rights {
        server.grant(name, *permission, prefix).await.unwrap();
    }
    let url = format!("etcd://{name}:{name}@{}", server.address());
    EtcdConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap()
}

/// Everything that a client does, each at least once.
async fn everything(backend: &Arc<dyn Backend>, key: &str) -> Result<()> {
    let claim =
        |ticket| Claim::new(LockKey::new(key).unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX);
    let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
    let sink = EventSink::new(move |event| {
        if let Event::Granted { .. } | Event::Recheck(_) = event {
            let _ = events.send(());
        }
    });
    let open = async |sink| {
        let ttl = Duration::from_secs(60);
        let options = SessionOptions::new(SessionId::random()?, Domain(0), ttl, HolderInfo::new(1));
        Ok::<_, Error>(backend.open(&options, sink).await?.session)
    };
    backend.probe().await?;
    let (one, other) = (open(EventSink::new(|_| {})).await?, open(sink).await?);
    one.claim(&claim(1).term(Term::Session { at_least: Duration::from_millis(1) })).await?;
    other.claim(&claim(1).waiting(true)).await?;
    other.renew(&[claim(1).reference()]).await?;
    backend.inspect(&LockKey::new(key)?).await?;
    one.release(&claim(1).reference(), Certainty::Settled).await?;
    while !matches!(other.claim(&claim(1).waiting(true)).await?, Claimed::Granted { .. }) {
        tokio::select! {
            _ = told.recv() => {}
            () = SystemClock::new().sleep(Duration::from_secs(5)) => {
                return Err(Error::unavailable("nobody told the waiter of its grant"));
            }
        }
    }
    backend.list(&Query::new(None, "", 10)).await?;
    backend.force_release(&LockKey::new(key)?, None).await?;
    one.claim(&claim(2).term(Term::Fixed(Duration::from_secs(5)))).await?;
    one.release(&claim(2).reference(), Certainty::MaybeInFlight).await?;
    one.close().await?;
    other.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_on_the_page_suffice_and_each_is_needed() {
    let server = EtcdSetup::new().password(ROOT).start().await.unwrap();
    let rights = on_the_page();
    everything(&account(&server, "locks", &rights).await, "k").await.unwrap();
    let halves = [Permission::Read, Permission::Write];
    let mut number = 0;
    for left_out in 0..rights.len() {
        let mut others = rights.clone();
        let (whole, prefix) = others.remove(left_out);
        // Without any of it, and with each half of it alone.
        let rest = halves.into_iter().filter(|_| whole == Permission::ReadWrite).map(Some);
        for half in rest.chain([None]) {
            let fewer: Vec<_> =
                others.iter().cloned().chain(half.map(|half| (half, prefix.clone()))).collect();
            number += 1;
            let name = format!("less{number}");
            let error = everything(&account(&server, &name, &fewer).await, &name).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Denied, "{fewer:?}: {error}");
            assert!(error.message().contains("under this root"), "{error}");
        }
    }
}
