//! The ends of what there is: the largest token, the longest names, the longest times, many at once.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::servers::{Redis, Reply};
use lock_core::{
    AcquireOptions, Certainty, Claim, Domain, Effect, ErrorKind, Event, EventSink, FencingToken, HolderInfo,
    LockClient, LockKey, Mode, Permit, Released, SessionId, SessionOptions, Ticket,
};
use lock_redis::{RedisOptions, redis};
use tokio::task::JoinSet;

use crate::common::{SECOND, backend, calls, client, mutex, session, sleep, text, token};

/// Also where the client foresees the record of the next grant.
#[tokio::test]
async fn behind_the_largest_token_nothing_is_granted() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let session = session(&backend, 60 * SECOND).await;
    for ticket in 1..4 {
        session.claim(&mutex("warm", ticket)).await.unwrap();
        session.release(&mutex("warm", ticket).reference(), Certainty::Settled).await.unwrap();
    }
    let largest = FencingToken::MAX.get();
    text(&server, &["SET", "fencepost:{00}:l:k", &(largest - 1).to_string()]).await;
    let claim = mutex("k", 10);
    assert_eq!(token(&session.claim(&claim).await.unwrap()), largest);
    assert_eq!(session.release(&claim.reference(), Certainty::Settled).await.unwrap(), Released::Done);
    let error = session.claim(&mutex("k", 11)).await.unwrap_err();
    let record = text(&server, &["GET", "fencepost:{00}:l:k"]).await;
    assert_eq!(
        (error.kind(), record.as_str()),
        (&ErrorKind::FenceExhausted, largest.to_string().as_str()),
        "{error}; {:?}",
        backend.inspect(&LockKey::new("k").unwrap()).await
    );
}

#[tokio::test]
async fn the_longest_time_for_idle_keys() {
    let server = Redis::start().await.unwrap();
    let driver = redis::Client::open(server.url()).unwrap();
    let backend = lock_redis::backend(&driver, RedisOptions::new().idle_after(Duration::MAX)).unwrap();
    let session = session(&backend, SECOND).await;
    session.claim(&mutex("k", 1)).await.unwrap();
}

#[tokio::test]
async fn the_longest_keys_under_the_longest_prefix() {
    let server = Redis::start().await.unwrap();
    let namespace = "n".repeat(64);
    let driver = redis::Client::open(server.url()).unwrap();
    let backend = lock_redis::backend(&driver, RedisOptions::new().namespace(namespace)).unwrap();
    for key in ["é".repeat(256), ";".repeat(512), "{}".repeat(256), " \n\0%".repeat(128)] {
        let prefix = lock_core::Prefix::new("p".repeat(64)).unwrap();
        let client = LockClient::builder(backend.clone()).prefix(prefix).build().unwrap();
        let held = client.mutex(key.as_str()).unwrap().acquire().await.unwrap();
        let lock = client.mutex(key.as_str()).unwrap();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { lock.acquire().await });
        while client.inspect(key.as_str()).await.unwrap().queue.is_empty() {
            sleep(SECOND / 100).await;
        }
        held.release().await.unwrap();
        waiting.join_next().await.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

async fn looks(server: &Redis) -> u64 {
    calls(server, "pttl").await
}

/// Many claims that wait behind many holders: the server answers nobody while a script runs.
#[tokio::test]
async fn a_renewal_does_not_keep_the_server_from_everybody_else() {
    const HOLDERS: u32 = 500;
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let claim = |ticket| {
        let permit = Permit::new(1, HOLDERS).unwrap();
        Claim::new(LockKey::new("k").unwrap(), Ticket(ticket), Mode::Permits { held: 1, of: HOLDERS }, permit)
            .waiting(true)
    };
    let (holder, waiter) = (session(&backend, 600 * SECOND).await, session(&backend, 600 * SECOND).await);
    for ticket in 0..u64::from(HOLDERS) {
        holder.claim(&claim(ticket)).await.unwrap();
    }
    for ticket in 0..250 {
        waiter.claim(&claim(ticket)).await.unwrap();
    }
    let known: Vec<_> = (0..250).map(|ticket| claim(ticket).reference()).collect();
    let before = looks(&server).await;
    waiter.renew(&known).await.unwrap();
    let looks = looks(&server).await - before;
    // Once for each holder, not once for each holder and claim.
    assert!(looks <= u64::from(HOLDERS), "{looks} looks at a session's life");
}

/// Sinks are told nothing that was not theirs.
#[tokio::test]
async fn a_session_hears_of_its_own_claims_only() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
    let sink = {
        let heard = heard.clone();
        EventSink::new(move |event| heard.lock().unwrap().push(event))
    };
    let options =
        SessionOptions::new(SessionId::random().unwrap(), Domain(0), 60 * SECOND, HolderInfo::new(1));
    let _quiet = backend.open(&options, sink).await.unwrap();
    let (one, two) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    one.claim(&mutex("k", 1)).await.unwrap();
    two.claim(&mutex("k", 1).waiting(true)).await.unwrap();
    one.close().await.unwrap();
    // Behind whatever was sent because of it, on the same connection.
    backend.inspect(&LockKey::new("k").unwrap()).await.unwrap();
    assert!(heard.lock().unwrap().is_empty(), "{heard:?}");
}

/// Claims that came to nothing: closing has nothing to look at.
#[tokio::test]
async fn a_session_forgets_what_is_not_in_the_store() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (owner, session) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    for number in 0..500 {
        owner.claim(&mutex(&format!("k{number}"), number)).await.unwrap();
        let reader = Claim::new(
            LockKey::new(format!("k{number}")).unwrap(),
            Ticket(number),
            Mode::Shared,
            Permit::READER,
        );
        let error = session.claim(&reader).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::CapacityMismatch { .. }));
        // So the engine does not release it.
        assert_eq!(error.took_effect(), Effect::NotApplied);
    }
    let before = calls(&server, "evalsha").await;
    session.close().await.unwrap();
    assert_eq!(calls(&server, "evalsha").await - before, 1, "scripts to close a session that has nothing");
}

/// The same for holds that do not end with their session.
#[tokio::test]
async fn a_client_forgets_detached_holds() {
    let server = Redis::start().await.unwrap();
    let client = client(&server.url(), 60 * SECOND);
    for number in 0..300 {
        let key = format!("k{number}");
        let lock = client.mutex(key.as_str()).unwrap();
        let held = lock.acquire_detached(60 * SECOND, &AcquireOptions::new()).await.unwrap();
        assert!(client.release_detached(key.as_str(), held.token).await.unwrap());
    }
    let before = calls(&server, "evalsha").await;
    client.shutdown(5 * SECOND).await;
    assert!(
        calls(&server, "evalsha").await - before <= 1,
        "{} scripts",
        calls(&server, "evalsha").await - before
    );
}

/// What a client expects of a key is compared by the server, and so is what it believes of its own session.
#[tokio::test]
async fn the_short_way_looks_at_the_session() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let session = session(&backend, 60 * SECOND).await;
    // So that the client knows the fence.
    for ticket in 1..4 {
        session.claim(&mutex("k", ticket)).await.unwrap();
        session.release(&mutex("k", ticket).reference(), Certainty::Settled).await.unwrap();
    }
    let key = format!("fencepost:{{00}}:s:{}", session.id());
    let held = mutex("k", 4);
    session.claim(&held).await.unwrap();
    assert_eq!(server.command(["DEL", &key]).await.unwrap(), Reply::Number(1));
    assert_eq!(session.release(&held.reference(), Certainty::Settled).await.unwrap(), Released::Gone);
    let error = session.claim(&mutex("k", 5)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    let state = backend.inspect(&LockKey::new("k").unwrap()).await.unwrap();
    assert!(state.is_idle(), "{state:?}");
}

/// A record that is about to go is given its time again before anybody holds it.
#[tokio::test]
async fn the_short_way_looks_at_the_records_life() {
    let server = Redis::start().await.unwrap();
    let session = session(&backend(&server.url()), 10 * SECOND).await;
    for ticket in 1..4 {
        session.claim(&mutex("k", ticket)).await.unwrap();
        session.release(&mutex("k", ticket).reference(), Certainty::Settled).await.unwrap();
    }
    assert_eq!(server.command(["PEXPIRE", "fencepost:{00}:l:k", "5000"]).await.unwrap(), Reply::Number(1));
    session.claim(&mutex("k", 4)).await.unwrap();
    let Reply::Number(left) = server.command(["PTTL", "fencepost:{00}:l:k"]).await.unwrap() else { panic!() };
    assert!(left >= 100_000, "{left} ms");
}
