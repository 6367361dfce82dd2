//! The heartbeat.

use lock_core::{Certainty, Clock, HoldState, Reason};

use crate::support::{Fault, Operation, TTL, World, millis, rest, secs};

#[tokio::test]
async fn it_holds_for_many_ttls_under_one_token_and_never_at_risk() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let token = guard.token();
    let before = world.wire.calls(Operation::Renew);
    for _ in 0..110 {
        world.pass(secs(1)).await;
        assert!(matches!(guard.state(), HoldState::Held { .. }));
    }
    assert_eq!((guard.token(), world.state("k").await.holders[0].token), (token, token));
    let beats = world.wire.calls(Operation::Renew) - before;
    assert!((33..=37).contains(&beats), "one for each third of a TTL, up to a tenth earlier: {beats}");
}

#[tokio::test]
async fn errors_are_retried_sooner_than_the_next_beat() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.fail(Operation::Renew, std::iter::repeat_n(Fault::Refused, 3));
    world.pass(secs(5)).await;
    assert!(world.wire.calls(Operation::Renew) >= 4);
    assert!(matches!(guard.state(), HoldState::Held { .. }));
}

#[tokio::test]
async fn a_renewal_whose_reply_is_lost_keeps_the_old_deadline() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    let HoldState::Held { until } = guard.state() else { panic!() };
    world.wire.always(Operation::Renew, Fault::ReplyLost);
    world.pass(secs(9)).await;
    assert_eq!(guard.state(), HoldState::AtRisk { until });
    world.pass(millis(900)).await;
    assert!(!guard.state().is_held());
}

#[tokio::test]
async fn many_holds_are_verified_in_chunks_each_within_two_thirds_of_a_ttl() {
    const HOLDS: usize = 1000;
    let world = World::chunked(10, |builder| builder);
    let mut guards = Vec::new();
    for number in 0..HOLDS {
        guards.push(world.client.mutex(format!("k{number}")).unwrap().acquire().await.unwrap());
    }
    world.pass(TTL).await;
    let before = world.wire.calls(Operation::Renew);
    world.pass(TTL).await;
    let beats = world.wire.calls(Operation::Renew) - before;
    // 1.5 N / chunk, and up to a tenth more by jitter.
    assert!((150..=168).contains(&beats), "{beats}");
    let (_, session) = world.wire.sessions()[0].clone();
    for guard in &guards {
        session.release(&guard.grant().claim, Certainty::Settled).await.unwrap();
    }
    world.pass(TTL / 3 * 2).await;
    for guard in &guards {
        assert_eq!(
            guard.state(),
            HoldState::Ended(lock_core::End::Lost(Reason::Forgotten)),
            "{}",
            guard.key()
        );
    }
}

/// The store is so slow that twenty holds, asked about one by one, take twice a TTL.
#[tokio::test]
async fn a_hold_that_is_not_verified_for_a_whole_ttl_is_at_risk() {
    let world = World::chunked(1, |builder| builder);
    let mut guards = Vec::new();
    for number in 0..20 {
        guards.push(world.client.mutex(format!("k{number}")).unwrap().acquire().await.unwrap());
    }
    world.wire.always(Operation::Renew, Fault::AnsweredAfter(secs(1)));
    let mut at_risk = 0;
    for _ in 0..40 {
        world.pass(millis(500)).await;
        let now = world.clock.boot();
        for guard in &guards {
            match guard.state() {
                HoldState::Held { .. } => {}
                HoldState::AtRisk { until } => {
                    at_risk += 1;
                    assert!(until.since(now) > TTL / 2, "the session itself is renewed in time");
                }
                state => panic!("{state:?}"),
            }
        }
    }
    assert!(at_risk > 0, "none was ever at risk");
}

/// What verifies nothing renews nothing, and is asked for no more often than what fails.
#[tokio::test]
async fn a_renewal_that_answers_for_fewer_claims_does_not_count() {
    let world = World::new();
    let guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.be_terse();
    world.pass(TTL - millis(101)).await;
    assert!(matches!(guard.state(), HoldState::AtRisk { .. }));
    assert!(world.wire.calls(Operation::Renew) < 50, "{}", world.wire.calls(Operation::Renew));
    world.pass(millis(1)).await;
    assert_eq!(guard.state(), HoldState::Ended(lock_core::End::Lost(Reason::Expired)));
}

#[tokio::test]
async fn nothing_is_left_after_many_cycles() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    for _ in 0..10_000 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    rest().await;
    assert!(world.state("k").await.is_idle());
    world.wire.send(&lock_core::Event::Gap);
    let sent = world.wire.calls(Operation::Claim);
    rest().await;
    assert_eq!(world.wire.calls(Operation::Claim), sent);
}

/// The first renewal is due a third of the TTL after the opening was sent, not after it was answered.
#[tokio::test]
async fn after_a_slow_opening_it_renews_sooner() {
    let world = World::new();
    world.wire.fail(Operation::Open, [Fault::AnsweredAfter(secs(4))]);
    let lock = world.client.mutex("k").unwrap();
    let acquiring = tokio::spawn(async move { lock.acquire().await.unwrap() });
    world.pass(secs(4)).await;
    let guard = acquiring.await.unwrap();
    assert_eq!(world.wire.calls(Operation::Renew), 1, "at once");
    assert!(matches!(guard.state(), HoldState::Held { .. }));
}
