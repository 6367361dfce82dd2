//! Opening a session.

use lock_core::{AcquireOptions, Effect, ErrorKind, RetryPolicy, Wait};

use crate::support::{Fault, Operation, TTL, World, at_once, rest, secs};

#[tokio::test]
async fn it_is_opened_once_for_everybody() {
    let world = World::new();
    world.wire.fail(Operation::Open, [Fault::AnsweredAfter(secs(1))]);
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let lock = world.client.mutex(format!("k{number}")).unwrap();
            tokio::spawn(async move { lock.acquire().await })
        })
        .collect();
    world.pass(secs(1)).await;
    for task in tasks {
        assert!(task.await.unwrap().unwrap().state().is_held());
    }
    assert_eq!(world.wire.calls(Operation::Open), 1);
}

#[tokio::test]
async fn a_lost_reply_is_retried_under_the_same_id() {
    let world = World::new();
    world.wire.fail(Operation::Open, [Fault::ReplyLost, Fault::Refused]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(secs(1)).await;
    assert!(waiter.await.unwrap().is_ok());
    assert_eq!(world.wire.calls(Operation::Open), 3);
    assert_eq!(world.wire.sessions().len(), 1, "one session, found again");
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_for_try_at_once_and_for_others_when_the_policy_gives_up() {
    let world = World::with(|builder| builder.retry(RetryPolicy::default().give_up_after(secs(4))));
    world.wire.always(Operation::Open, Fault::Refused);
    let lock = world.client.mutex("k").unwrap();
    let error = at_once(lock.try_acquire()).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.endpoint()), (&ErrorKind::Unavailable, Some("memory:")));
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(secs(2)).await;
    assert!(!waiter.is_finished());
    world.pass(secs(3)).await;
    assert_eq!(waiter.await.unwrap().unwrap_err().kind(), &ErrorKind::Unavailable);
    world.wire.heal();
    assert!(world.client.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn an_opening_that_took_longer_than_the_ttl_is_not_used() {
    let world = World::with(|builder| builder.call_timeout(secs(60)));
    world.wire.fail(Operation::Open, [Fault::AnsweredAfter(TTL)]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(TTL + secs(1)).await;
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(guard.grant().session, world.wire.sessions()[1].0, "another session");
}

#[tokio::test]
async fn one_that_is_lost_is_replaced_and_the_old_one_closed() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.send(&lock_core::Event::Lost(lock_core::Reason::SessionEnded));
    let again = world.client.mutex("k2").unwrap().acquire().await.unwrap();
    assert_ne!(again.grant().session, guard.grant().session);
    rest().await;
    assert!(world.state("k").await.is_idle(), "closed as a best effort");
}

#[tokio::test]
async fn each_part_of_a_store_has_a_session_of_its_own() {
    let world = World::new();
    let here = world.client.mutex("here").unwrap().acquire().await.unwrap();
    let there = world.client.mutex("elsewhere").unwrap().acquire().await.unwrap();
    let too = world.client.mutex("elsewhere-too").unwrap().acquire().await.unwrap();
    assert_ne!(here.grant().session, there.grant().session);
    assert_eq!(there.grant().session, too.grant().session);
    world.pass(TTL * 2).await;
    assert!(here.state().is_held() && there.state().is_held());
    assert!(world.client.shutdown(secs(1)).await.is_empty());
    assert!(world.state("here").await.is_idle() && world.state("elsewhere").await.is_idle());
}

#[tokio::test]
async fn whoever_loses_patience_with_a_store_that_refuses_to_open_hears_the_refusal() {
    let world = World::new();
    world.wire.always(Operation::Open, Fault::Refused);
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().wait(Wait::AtMost(secs(3)));
    let waiter = tokio::spawn(async move { lock.acquire_with(&options).await });
    world.pass(secs(3)).await;
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Unavailable, Effect::NotApplied), "{error}");
}

#[tokio::test]
async fn a_session_that_was_opened_too_late_is_closed() {
    let world = World::with(|builder| builder.call_timeout(secs(60)));
    world.wire.fail(Operation::Open, [Fault::AnsweredAfter(TTL)]);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await });
    world.pass(TTL + secs(1)).await;
    let _guard = waiter.await.unwrap().unwrap();
    assert_eq!(world.wire.calls(Operation::Close), 1);
}

#[tokio::test]
async fn a_try_makes_an_attempt_of_its_own() {
    let world = World::new();
    world.wire.always(Operation::Open, Fault::Refused);
    let lock = world.client.mutex("k").unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    world.pass(secs(8)).await;
    world.wire.heal(); // the store is back; whoever opens the session pauses
    let before = world.wire.calls(Operation::Open);
    let tried = lock.try_acquire().await;
    assert!(
        tried.is_ok() || world.wire.calls(Operation::Open) > before,
        "refused without having asked: {tried:?}"
    );
    waiter.abort();
}
