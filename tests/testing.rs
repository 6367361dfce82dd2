//! What an application's tests can do to a store.

#![cfg(feature = "testing")]
#![expect(clippy::disallowed_methods, reason = "time is Tokio's here, and paused")]

use std::time::Duration;

use fencepost::{AcquireOptions, Effect, End, ErrorKind, HoldState, Operation, Ran, Reason, Wait, testing};

#[tokio::test(start_paused = true)]
async fn time_is_tokios() {
    let (client, control) = testing::memory().unwrap();
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    tokio::time::sleep(client.ttl() * 20).await;
    assert!(matches!(guard.state(), HoldState::Held { .. }), "renewed all the while");
    control.cut_off();
    tokio::time::sleep(client.ttl()).await;
    assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
    control.heal();
    let other = control.another().unwrap();
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok(), "free for others by now");
}

#[tokio::test(start_paused = true)]
async fn what_expires_is_lost_and_free() {
    let (client, control) = testing::memory().unwrap();
    let lock = client.mutex("k").unwrap();
    let ran = lock
        .run(|held| {
            let control = control.clone();
            async move {
                control.expire();
                held.lost().await;
                std::future::pending::<()>().await;
            }
        })
        .await
        .unwrap();
    assert_eq!(ran, Ran::Lost(Reason::Expired));
    assert!(control.another().unwrap().mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
    let again = client.mutex("other").unwrap().acquire().await.unwrap();
    assert!(again.state().is_held(), "by another session");
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_is_told() {
    let (client, control) = testing::memory().unwrap();
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    assert_eq!(control.revoke("k").await.unwrap(), 1);
    assert_eq!(guard.lost().await, Reason::Revoked);
    assert!(control.holders().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_call_fails_applied_or_not() {
    let (client, control) = testing::memory().unwrap();
    client.open().await.unwrap();
    let lock = client.mutex("k").unwrap();
    control.fail_next(Operation::Claim, ErrorKind::Denied, Effect::NotApplied);
    assert_eq!(*lock.try_acquire().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(control.holders().await.unwrap().is_empty());
    control.fail_next(Operation::Claim, ErrorKind::Unavailable, Effect::Unknown);
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Unavailable, Effect::Unknown));
    // It was applied, and is undone.
    let options = AcquireOptions::new().wait(Wait::AtMost(Duration::from_secs(1)));
    let guard = lock.acquire_with(&options).await.unwrap();
    control.fail_next(Operation::Release, ErrorKind::Unavailable, Effect::Unknown);
    assert!(guard.release().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_holders_are_listed_with_their_names() {
    let (client, control) = testing::memory().unwrap();
    let mine = client.mutex("a").unwrap().acquire().await.unwrap();
    let another = control.another().unwrap();
    let yours = another.mutex("b").unwrap().acquire().await.unwrap();
    let holders = control.holders().await.unwrap();
    let seen: Vec<_> = holders
        .iter()
        .map(|(key, holder)| (key.as_str(), holder.token, holder.info.as_ref().and_then(|info| info.name())))
        .collect();
    assert_eq!(seen, [("a", mine.token(), Some("under test")), ("b", yours.token(), Some("another"))]);
}
