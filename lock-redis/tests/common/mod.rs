//! Servers, clients and sessions for the tests of this crate.

#![allow(dead_code, reason = "each test target uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Redis, Reply};
use lock_core::{
    Backend, Claim, Claimed, Clock, Domain, EventSink, HolderInfo, LockClient, LockKey, Mode, Permit, Result,
    Session, SessionId, SessionOptions, SystemClock, Ticket,
};
use lock_redis::{RedisOptions, redis};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn backend(url: &str) -> Arc<dyn Backend> {
    lock_redis::backend(&redis::Client::open(url).unwrap(), RedisOptions::new()).unwrap()
}

pub(crate) fn client(url: &str, ttl: Duration) -> LockClient {
    LockClient::builder(backend(url)).ttl(ttl).build().unwrap()
}

/// A session without an engine: nobody renews it.
pub(crate) async fn session(backend: &Arc<dyn Backend>, ttl: Duration) -> Arc<dyn Session> {
    session_of(backend, SessionId::random().unwrap(), ttl).await.unwrap()
}

pub(crate) async fn session_of(
    backend: &Arc<dyn Backend>,
    id: SessionId,
    ttl: Duration,
) -> Result<Arc<dyn Session>> {
    let options = SessionOptions::new(id, Domain(0), ttl, HolderInfo::new(1));
    Ok(backend.open(&options, EventSink::new(|_| {})).await?.session)
}

pub(crate) fn mutex(key: &str, ticket: u64) -> Claim {
    Claim::new(LockKey::new(key).unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX)
}

pub(crate) fn token(claimed: &Claimed) -> u64 {
    match claimed {
        Claimed::Granted { token, .. } => token.get(),
        other => panic!("{other:?}"),
    }
}

/// What the server answers to a command, if that is a text; otherwise what it looks like.
pub(crate) async fn text(server: &Redis, words: &[&str]) -> String {
    match server.command(words.iter().copied()).await.unwrap() {
        Reply::Text(text) => text,
        other => format!("{other:?}"),
    }
}

pub(crate) async fn sleep(time: Duration) {
    SystemClock::new().sleep(time).await;
}

/// How often the server has run a command.
pub(crate) async fn calls(server: &Redis, command: &str) -> u64 {
    let info = text(server, &["INFO", "commandstats"]).await;
    let of = format!("cmdstat_{command}:calls=");
    let line = info.lines().find_map(|line| line.strip_prefix(&of)).unwrap_or("0");
    line.split(',').next().unwrap().parse().unwrap()
}
