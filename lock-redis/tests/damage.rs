//! Data that something else has damaged: whose matter that is, and what is said of it.

mod common;

use lock_conformance::servers::Redis;
use lock_core::{Certainty, Claimed, Effect, LockKey, Query};
use tokio::task::JoinSet;

use crate::common::{SECOND, backend, client, mutex, session, sleep, text};

/// A session's other holds go on being renewed.
#[tokio::test]
async fn a_damaged_record_harms_only_its_own_key() {
    let server = Redis::start().await.unwrap();
    let client = client(&server.url(), SECOND);
    let _one = client.mutex("a").unwrap().acquire().await.unwrap();
    let other = client.mutex("b").unwrap().acquire().await.unwrap();
    text(&server, &["SET", "fencepost:{00}:l:a", "rubbish"]).await;
    sleep(2 * SECOND).await;
    assert!(other.state().is_held(), "the hold of another key: {:?}", other.state());
}

/// The same for whoever waits for the damaged key.
#[tokio::test]
async fn a_queue_of_the_wrong_type_harms_only_its_own_key() {
    let server = Redis::start().await.unwrap();
    let (holder, client) = (client(&server.url(), SECOND), client(&server.url(), SECOND));
    let _held = holder.mutex("a").unwrap().acquire().await.unwrap();
    let other = client.mutex("b").unwrap().acquire().await.unwrap();
    let lock = client.mutex("a").unwrap();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { lock.acquire().await.map(|_| ()) });
    while text(&server, &["EXISTS", "fencepost:{00}:q:a"]).await != "Number(1)" {
        sleep(SECOND / 100).await;
    }
    text(&server, &["SET", "fencepost:{00}:q:a", "rubbish"]).await;
    sleep(2 * SECOND).await;
    assert!(other.state().is_held(), "the hold of another key: {:?}", other.state());
}

/// What a script has written before it failed may have taken effect.
#[tokio::test]
async fn a_script_that_fails_half_way_does_not_say_that_it_was_not_applied() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let session = session(&backend, 60 * SECOND).await;
    let claim = mutex("a", 1);
    session.claim(&claim).await.unwrap();
    text(&server, &["SET", "fencepost:{00}:l:a", "rubbish"]).await;
    let error = session.release(&claim.reference(), Certainty::MaybeInFlight).await.unwrap_err();
    let tombstone = text(&server, &["EXISTS", &format!("fencepost:{{00}}:t:{}", session.id())]).await;
    assert!(tombstone.contains('1'), "it has written: {tombstone}");
    assert_eq!(error.took_effect(), Effect::Unknown, "{error}");
}

/// Closing goes on behind a damaged record.
#[tokio::test]
async fn closing_hands_over_what_is_not_damaged() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (holder, waiter) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    for ticket in 0..40 {
        let claim = mutex(&format!("k{ticket}"), ticket).waiting(true);
        holder.claim(&claim).await.unwrap();
        waiter.claim(&claim).await.unwrap();
    }
    for damaged in 0..5 {
        text(&server, &["SET", &format!("fencepost:{{00}}:l:k{damaged}"), "rubbish"]).await;
    }
    let closed = holder.close().await;
    let mut handed_over = 0;
    for ticket in 5..40 {
        let state = backend.inspect(&LockKey::new(format!("k{ticket}")).unwrap()).await.unwrap();
        handed_over += usize::from(state.holders.iter().any(|holder| holder.session == waiter.id()));
    }
    assert_eq!(handed_over, 35, "{closed:?}");
}

/// It is listed itself, for somebody has to look at it.
#[tokio::test]
async fn a_damaged_record_does_not_hide_the_other_keys() {
    let server = Redis::start().await.unwrap();
    let client = client(&server.url(), 10 * SECOND);
    let _held = client.mutex("a").unwrap().acquire().await.unwrap();
    text(&server, &["SET", "fencepost:{00}:l:b", "9 rubbish"]).await;
    let page = backend(&server.url()).list(&Query::new(None, "", 10)).await;
    let names: Vec<_> = page.unwrap().keys.iter().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(names, ["a", "b"]);
}

/// Nobody knows any more how much it wanted: it has to ask again.
#[tokio::test]
async fn a_waiter_whose_entry_is_missing_is_not_granted_beside_the_holder() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (holder, waiter) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    holder.claim(&mutex("k", 1)).await.unwrap();
    waiter.claim(&mutex("k", 1).waiting(true)).await.unwrap();
    text(&server, &["DEL", "fencepost:{00}:w:k"]).await;
    let answer = waiter.claim(&mutex("k", 1).waiting(true)).await;
    let standing = holder.renew(&[mutex("k", 1).reference()]).await.unwrap().standings;
    assert!(
        !matches!(answer, Ok(Claimed::Granted { .. })),
        "two hold one mutex: {answer:?} beside {standing:?}"
    );
}

/// A part of the record that begins as this session's own, and is none.
#[tokio::test]
async fn a_damaged_part_of_a_record_harms_only_its_own_key() {
    let server = Redis::start().await.unwrap();
    let mut lost = Vec::new();
    for damage in ["rubbish", "0 1 s 0 x ", "99999999999999999999 1 s 0 x "] {
        let client = client(&server.url(), SECOND);
        let one = client.mutex("a").unwrap().acquire().await.unwrap();
        let other = client.mutex("b").unwrap().acquire().await.unwrap();
        let record = text(&server, &["GET", "fencepost:{00}:l:a"]).await;
        let (head, part) = record.split_once(';').unwrap();
        let mut words = part.split(' ');
        let (session, ticket) = (words.next().unwrap(), words.next().unwrap());
        text(&server, &["SET", "fencepost:{00}:l:a", &format!("{head};{session} {ticket} {damage}")]).await;
        sleep(2 * SECOND).await;
        if !other.state().is_held() {
            lost.push(format!("{damage:?}: {:?}", other.state()));
        }
        text(&server, &["DEL", "fencepost:{00}:l:a"]).await;
        drop((one, other));
        client.shutdown(SECOND).await;
    }
    assert!(lost.is_empty(), "the hold of another key: {lost:?}");
}

/// Only the head of a record is looked at for damage.
#[tokio::test]
async fn a_record_whose_holder_cannot_be_read_is_not_idle() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (holder, other) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    holder.claim(&mutex("k", 1)).await.unwrap();
    let record = text(&server, &["GET", "fencepost:{00}:l:k"]).await;
    text(&server, &["SET", "fencepost:{00}:l:k", &record[..record.len() - 3]]).await;
    let answer = other.claim(&mutex("k", 1)).await;
    assert!(answer.is_err(), "{answer:?} beside the holder of {record:?}, of which three bytes are missing");
}

/// The record alone says that it holds no more; what is damaged is the queue.
#[tokio::test]
async fn a_damaged_queue_does_not_hide_for_ever_that_a_hold_was_lost() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let next = session(&backend, 60 * SECOND).await;
    let client = client(&server.url(), SECOND);
    let held = client.mutex("k").unwrap().acquire().await.unwrap();
    text(&server, &["SET", "fencepost:{00}:q:k", "rubbish"]).await;
    // As after a failover that lost the grant: another one holds, and somebody waits.
    let (token, id) = (held.token().get(), next.id());
    let record = format!("{token} 1 1;{id} 1 {token} 1 s 0 x ");
    text(&server, &["SET", "fencepost:{00}:l:k", &record]).await;
    sleep(3 * SECOND).await;
    assert!(
        matches!(held.state(), lock_core::HoldState::Ended(_)),
        "three TTLs beside its successor: {:?}",
        held.state()
    );
}

/// It is everybody's, and what it says is only about keys that nobody knows any more.
#[tokio::test]
async fn a_damaged_clock_ends_nobodys_hold() {
    let server = Redis::start().await.unwrap();
    let client = client(&server.url(), SECOND);
    let held = client.mutex("a").unwrap().acquire().await.unwrap();
    text(&server, &["SET", "fencepost:{00}:clock", "rubbish"]).await;
    sleep(2 * SECOND).await;
    assert!(held.state().is_held(), "{:?}", held.state());
}

/// An answer that no script gives says nothing of what is in the store.
#[tokio::test]
async fn a_claim_whose_answer_cannot_be_read_is_not_forgotten() {
    let server = Redis::start().await.unwrap();
    let backend = backend(&server.url());
    let (holder, waiter) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    holder.claim(&mutex("k", 1)).await.unwrap();
    waiter.claim(&mutex("k", 1).waiting(true)).await.unwrap();
    let record = text(&server, &["GET", "fencepost:{00}:l:k"]).await;
    let token = record.split(' ').next().unwrap();
    let damaged = record.replace(&format!(" 1 {token} 1 s"), " 1 0 1 s");
    assert_ne!(damaged, record);
    text(&server, &["SET", "fencepost:{00}:l:k", &damaged]).await;
    let error = holder.claim(&mutex("k", 1)).await.unwrap_err();
    assert_eq!(error.took_effect(), Effect::Unknown, "{error}");
    holder.close().await.unwrap();
    let record = text(&server, &["GET", "fencepost:{00}:l:k"]).await;
    assert!(record.contains(&waiter.id().to_string()), "not handed over: {record}");
}
