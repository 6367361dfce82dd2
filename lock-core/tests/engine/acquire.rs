//! Acquiring: attempts, waiting, retries and what their errors say.

use std::sync::Arc;

use lock_core::{AcquireOptions, Effect, ErrorKind, LockClient, Reason, RetryPolicy, Wait};

use crate::support::{Fault, Operation, TTL, World, at_once, millis, rest, secs};

#[tokio::test]
async fn try_is_exactly_one_attempt_and_names_the_holder() {
    let world = World::with(|builder| builder.name("billing"));
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let sent = world.wire.calls(Operation::Claim);
    let busy = lock.try_acquire().await.unwrap().unwrap_err();
    assert_eq!(world.wire.calls(Operation::Claim), sent + 1);
    assert_eq!(busy.holder.as_ref().and_then(|holder| holder.name()), Some("billing"));
    assert_eq!(busy.token, Some(guard.token()));
    assert_eq!(busy.remaining, Some(TTL));
}

#[tokio::test]
async fn a_try_that_fails_on_the_way_is_an_error_and_never_busy() {
    let world = World::new();
    world.client.open().await.unwrap();
    let lock = world.client.mutex("k").unwrap();
    for fault in [Fault::Refused, Fault::ReplyLost] {
        world.wire.fail(Operation::Claim, [fault]);
        let sent = world.wire.calls(Operation::Claim);
        let error = lock.try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unavailable);
        assert_eq!(world.wire.calls(Operation::Claim), sent + 1, "no transport retry");
        rest().await;
        assert!(world.state("k").await.is_idle(), "an unknown outcome is released");
    }
}

#[tokio::test]
async fn a_zero_wait_is_one_attempt() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let _guard = lock.acquire().await.unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(0)));
    let error = at_once(lock.acquire_with(&options)).await.unwrap().unwrap_err();
    assert!(error.busy().is_some_and(|busy| busy.holder.is_some()), "{error}");
    assert!(world.state("k").await.queue.is_empty());
}

/// The answer is that of the day on which it joined the queue: it says so, and counts the lease from then.
#[tokio::test]
async fn whoever_waited_in_vain_hears_how_old_the_news_are() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let _guard = lock.acquire().await.unwrap();
    let busy = async |patience| {
        let options = AcquireOptions::new().wait(Wait::AtMost(patience));
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire_with(&options).await }
        });
        world.pass(patience).await;
        waiter.await.unwrap().unwrap_err().busy().unwrap().clone()
    };
    // Behind the head, so that it is not asked again in between.
    let head = lock.clone();
    let _head = tokio::spawn(async move { head.acquire().await });
    rest().await;
    let young = busy(millis(500)).await;
    assert_eq!((young.age, young.remaining), (millis(500), Some(TTL - millis(500))));
    let old = busy(secs(12)).await;
    assert_eq!((old.age, old.remaining), (secs(12), None), "that lease has run out since");
    assert!(old.to_string().ends_with("as of 12s ago"), "{old}");
}

#[tokio::test]
async fn patience_ends_when_it_was_asked_to_and_leaves_the_queue() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let _guard = lock.acquire().await.unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(3)));
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire_with(&options).await }
    });
    world.pass(millis(2_999)).await;
    assert!(!waiter.is_finished());
    assert_eq!(world.state("k").await.queue.len(), 1);
    world.pass(millis(1)).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WaitTimedOut(busy) if busy.holder.is_some()), "{error}");
    rest().await;
    assert!(world.state("k").await.queue.is_empty());
}

#[tokio::test]
async fn whoever_loses_patience_with_a_store_that_is_away_hears_that_and_not_busy() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.always(Operation::Claim, Fault::Refused);
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(3)));
    let waiter = tokio::spawn(async move { lock.acquire_with(&options).await });
    world.pass(secs(3)).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert_eq!((error.key().map(lock_core::LockKey::as_str), error.endpoint()), (Some("k"), Some("memory:")));
}

#[tokio::test]
async fn black_holed_patience_still_ends_in_time() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.always(Operation::Claim, Fault::AppliedInSilence);
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(2)));
    let waiter = tokio::spawn(async move { lock.acquire_with(&options).await });
    world.pass(secs(2)).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::TimedOut, Effect::Unknown));
    world.wire.heal();
    world.pass(secs(5)).await;
    assert!(world.state("k").await.is_idle(), "released once the attempt had settled");
}

#[tokio::test]
async fn a_lost_reply_is_retried_under_the_same_claim() {
    let world = World::new();
    world.client.open().await.unwrap();
    world.wire.fail(Operation::Claim, [Fault::ReplyLost, Fault::AppliedInSilence]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    let shown = world.state("k").await.holders[0].token;
    world.pass(secs(6)).await;
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(guard.token(), shown, "no self-deadlock, and the token of the first copy");
    guard.release().await.unwrap();
    assert_eq!(world.wire.releases().last().unwrap().1, lock_core::Certainty::MaybeInFlight);
}

#[tokio::test]
async fn retries_give_up() {
    let world = World::with(|builder| builder.retry(RetryPolicy::default().give_up_after(secs(4))));
    world.client.open().await.unwrap();
    world.wire.always(Operation::Claim, Fault::Refused);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(secs(5)).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_waiter_is_woken_by_the_release() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let first = guard.token();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    guard.release().await.unwrap();
    let guard = at_once(waiter).await.expect("no time passes between release and grant").unwrap().unwrap();
    assert!(guard.token() > first);
}

#[tokio::test]
async fn a_lost_wake_up_is_found_by_the_next_verification() {
    let world = World::new();
    let holder = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    world.wire.deafen();
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    holder.release().await.unwrap();
    world.pass(TTL / 3 * 2).await;
    assert!(waiter.is_finished());
    assert!(waiter.await.unwrap().unwrap().state().is_held());
}

#[tokio::test]
async fn a_gap_makes_every_waiter_ask_again() {
    let world = World::new();
    let holder = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    world.wire.deafen();
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    holder.release().await.unwrap();
    rest().await;
    assert!(!waiter.is_finished());
    world.wire.send(&lock_core::Event::Gap);
    assert!(at_once(waiter).await.is_some());
}

#[tokio::test]
async fn the_head_asks_again_when_its_holders_lease_would_end() {
    let world = World::new();
    world.hold_silently("k").await;
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(TTL - millis(1)).await;
    assert!(!waiter.is_finished());
    world.pass(millis(2)).await;
    assert!(waiter.is_finished(), "not at some later poll");
}

#[tokio::test]
async fn a_grant_that_arrives_after_its_validity_is_no_grant() {
    let world = World::with(|builder| builder.call_timeout(secs(60)));
    world.client.open().await.unwrap();
    world.wire.always(Operation::Renew, Fault::Silence);
    world.wire.fail(Operation::Claim, [Fault::AnsweredAfter(TTL)]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(TTL).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::SessionLost(Reason::Expired));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_waiter_whose_session_ends_gets_an_error_and_the_next_call_a_new_session() {
    let world = World::new();
    let _holder = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    rest().await;
    let (id, session) = world.wire.sessions()[0].clone();
    session.close().await.unwrap();
    world.pass(TTL / 3).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost(_)), "{error}");
    assert!(lock.try_acquire().await.unwrap().is_err(), "busy, by way of a new session");
    assert_ne!(world.wire.sessions()[1].0, id);
}

#[tokio::test]
async fn a_waiter_whose_place_is_gone_queues_again_at_the_tail() {
    let world = World::new();
    let holder = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    let place = world.state("k").await.queue[0].ticket;
    let (_, session) = world.wire.sessions()[0].clone();
    let claim = lock_core::ClaimRef::new(lock_core::LockKey::new("k").unwrap(), place);
    session.release(&claim, lock_core::Certainty::Settled).await.unwrap();
    world.pass(TTL / 3 * 2).await;
    let again = world.state("k").await.queue[0].ticket;
    assert_ne!(again, place, "a new ticket");
    holder.release().await.unwrap();
    assert!(at_once(waiter).await.is_some());
}

#[tokio::test]
async fn two_acquires_of_one_client_are_two_contenders() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_err(), "not re-entrant");
    drop(guard);
}

#[tokio::test]
async fn readers_share_and_writers_do_not() {
    let world = World::new();
    let lock = world.client.rw_lock("k").unwrap();
    let (one, two) = (lock.read().acquire().await.unwrap(), lock.read().acquire().await.unwrap());
    let writer = tokio::spawn({
        let lock = lock.clone();
        async move { lock.write().acquire().await.unwrap() }
    });
    rest().await;
    assert!(lock.read().try_acquire().await.unwrap().is_err(), "a waiting writer is not passed");
    one.release().await.unwrap();
    two.release().await.unwrap();
    assert!(at_once(writer).await.unwrap().unwrap().state().is_held());
}

#[tokio::test]
async fn capacities_must_agree_while_the_key_is_in_use() {
    let world = World::new();
    let guard = world.client.semaphore("k", 3).unwrap().permits(1).unwrap().acquire().await.unwrap();
    let error = world.client.mutex("k").unwrap().try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::CapacityMismatch { in_force: 3 });
    assert!(!error.is_retryable());
    guard.release().await.unwrap();
    assert!(world.client.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_grant_that_is_pushed_between_two_tries_ends_the_waiting() {
    let world = World::with(|builder| builder.retry(RetryPolicy::default().base(secs(2))));
    let holder = world.neighbour().mutex("k").unwrap().acquire().await.unwrap();
    world.client.open().await.unwrap();
    world.wire.fail(Operation::Claim, [Fault::ReplyLost]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    rest().await;
    assert_eq!(world.state("k").await.queue.len(), 1, "queued, though nobody heard of it");
    holder.release().await.unwrap();
    assert!(at_once(waiter).await.expect("no time passes").unwrap().is_ok());
}

#[tokio::test]
async fn a_store_that_went_away_while_one_waited_is_not_busy() {
    let world = World::with(|builder| builder.ttl(secs(60)));
    let other = LockClient::builder(world.memory.clone())
        .clock(Arc::new(world.clock.clone()))
        .ttl(secs(60))
        .build()
        .unwrap();
    let _holder = other.mutex("k").unwrap().acquire().await.unwrap();
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(50)));
    let run = tokio::spawn(async move { lock.run_with(&options, |_| async {}).await });
    rest().await;
    for op in [Operation::Claim, Operation::Renew, Operation::Release] {
        world.wire.always(op, Fault::Silence);
    }
    world.wire.deafen();
    world.pass(secs(51)).await;
    let ran = run.await.unwrap();
    assert!(
        ran.is_err(),
        "{ran:?}: nothing was heard of the store for 50 s, {} renewals failed",
        world.wire.calls(Operation::Renew)
    );
}
