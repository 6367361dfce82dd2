//! Until when a hold is one, and who knows of its end first.

use std::time::Duration;

use lock_core::{Effect, End, ErrorKind, HoldState, LockClient, Operation, Reason};

use crate::case::cases;
use crate::scene::{NOISE, SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};
use lock_core::testing::Fault;

cases! { "lease":
    24 => renewal_holds_for_many_ttls for 15,
    25 => without_renewal_it_ends_in_time,
    26 => validity_counts_from_the_sending,
    27 => a_late_grant_is_none,
    28 => what_has_expired_cannot_be_renewed,
    29 => a_lost_reply_keeps_the_old_deadline,
    30 => the_holder_knows_before_its_successor,
    31 => an_early_loss_is_still_told,
    32 => a_waiter_whose_lease_dies_gets_an_error,
    33 => the_ttl_in_force_is_told,
}

async fn renewal_holds_for_many_ttls(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let token = guard.token();
    tokio::select! {
        state = guard.changed(guard.state()) => {
            return Err(Failure::new("a hold that is renewed to stay held", format_args!("{state:?}")));
        }
        () = scene.pause(scene.ttl() * 11) => {}
    }
    expect_eq("the token after eleven TTLs", guard.token(), token)?;
    expect_eq("the end", guard.release().await?, End::Released)
}

async fn without_renewal_it_ends_in_time(scene: Scene) -> Verdict {
    let successor = scene.client().await?;
    let before = scene.now();
    let (client, wire) = scene.wired().await?;
    let opened = scene.now();
    // Nor may its engine end the session early, as it does when it can.
    wire.cut_off(&[Operation::Renew, Operation::Release, Operation::Close]);
    let guard = client.mutex(scene.key())?.acquire().await?;
    let ending = guard.ending();
    let (ttl, longest) = (scene.ttl(), scene.longest().await?);
    let granted = scene.granted(longest * 2 + SOON, "a successor", &successor, scene.key()).await?;
    let at = scene.now();
    expect(
        at >= before + ttl,
        format_args!("no successor before the lease of {ttl:?} is over"),
        format_args!("one after {:?}", at.since(before)),
    )?;
    expect(
        at <= opened + longest + NOISE,
        format_args!("a successor within {longest:?} of the last acknowledged sending"),
        format_args!("one after {:?}", at.since(opened)),
    )?;
    expect_eq("the end of the one before", ending.await, End::Lost(Reason::Expired))?;
    expect(granted.token() > guard.token(), "a higher token", granted.token())
}

/// The answer to the opening comes late: the lease is shorter by that.
async fn validity_counts_from_the_sending(scene: Scene) -> Verdict {
    let delay = scene.ttl() / 2;
    let wire = crate::Wire::new(std::sync::Arc::new(lock_core::SystemClock::new()));
    wire.fail(Operation::Open, [Fault::AnsweredAfter(delay)]);
    // So long that none is acknowledged by the first look.
    let slow = scene.ttl() / 6;
    wire.always(Operation::Renew, Fault::AnsweredAfter(slow));
    let client = LockClient::builder(wire.to(scene.backend().await?)).ttl(scene.ttl()).build()?;
    client.open().await?;
    let sent_at_the_latest = scene.now() - delay;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let until = match guard.state() {
        HoldState::Held { until } | HoldState::AtRisk { until } => until,
        state => return Err(Failure::new("half a TTL that is left", format_args!("{state:?}"))),
    };
    expect(
        until <= sent_at_the_latest + scene.ttl(),
        "a hold that is valid for a TTL from before its opening was sent",
        format_args!("it is {:?} longer", until.since(sent_at_the_latest + scene.ttl())),
    )?;
    // Nor do the acknowledgements of renewals that were slow make it longer.
    for _ in 0..3 {
        let state = scene.within(scene.ttl(), "a renewal", guard.extended(until)).await?;
        let (HoldState::Held { until } | HoldState::AtRisk { until }) = state else {
            return Err(Failure::new("a hold that is renewed", format_args!("{state:?}")));
        };
        let longest = scene.now() - slow + scene.ttl();
        expect(
            until <= longest,
            "a renewal that counts from before it was sent",
            format_args!("it is {:?} longer", until.since(longest)),
        )?;
    }
    Ok(())
}

async fn a_late_grant_is_none(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired_with(|builder| builder.call_timeout(Duration::from_secs(20))).await?;
    wire.always(Operation::Renew, Fault::Silence);
    wire.fail(Operation::Claim, [Fault::AnsweredAfter(scene.ttl() * 2)]);
    let lock = client.mutex(scene.key())?;
    match scene.within(scene.ttl() * 3, "an answer", lock.acquire()).await? {
        Ok(guard) => {
            return Err(Failure::new(
                "no grant from a reply that came after the lease",
                format_args!("{guard:?}"),
            ));
        }
        Err(error) => expect(
            matches!(error.kind(), ErrorKind::SessionLost(_)) && error.is_retryable(),
            "a lost session, and that one may try again",
            error,
        )?,
    }
    let other = scene.client().await?;
    let limit = scene.longest().await? + NOISE;
    drop(scene.granted(limit, "the key of a grant that came too late", &other, scene.key()).await?);
    Ok(())
}

async fn what_has_expired_cannot_be_renewed(scene: Scene) -> Verdict {
    let late = scene.session(scene.ttl()).await?;
    late.take(&scene.key(), 1).await?;
    let successor = scene.client().await?;
    let limit = scene.longest().await? + SOON;
    let held = scene.granted(limit, "a successor", &successor, scene.key()).await?;
    for turn in 0..3 {
        let renewed = late.session.renew(&[crate::scene::mutex(&scene.key(), 1).reference()]).await;
        let is_lost = matches!(&renewed, Err(error) if matches!(error.kind(), ErrorKind::SessionLost(_)));
        expect(is_lost, format_args!("a lost session at renewal {turn}"), format_args!("{renewed:?}"))?;
        let claimed = late.claim(&scene.key(), 2, true).await;
        let is_lost = matches!(&claimed, Err(error) if matches!(error.kind(), ErrorKind::SessionLost(_)));
        expect(is_lost, format_args!("a lost session at claim {turn}"), format_args!("{claimed:?}"))?;
    }
    expect(held.state().is_held(), "the successor still holds it", format_args!("{:?}", held.state()))
}

async fn a_lost_reply_keeps_the_old_deadline(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    wire.always(Operation::Renew, Fault::ReplyLost);
    // One that was under way when the fault began may still be acknowledged.
    scene
        .until(scene.ttl() * 2, "a renewal whose reply is lost", async || {
            Ok(wire.calls(Operation::Renew) >= 2)
        })
        .await?;
    let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
        return Err(Failure::new("a hold", format_args!("{:?}", guard.state())));
    };
    let end = scene.within(scene.ttl() + SOON, "the end of the hold", guard.ending()).await?;
    expect_eq("the end, renewed without an answer", end, End::Lost(Reason::Expired))?;
    let at = scene.now();
    expect(at >= until, "no end before the deadline", format_args!("{:?} before it", until.since(at)))?;
    expect(at <= until + NOISE, "an end at the deadline", format_args!("{:?} after it", at.since(until)))
}

async fn the_holder_knows_before_its_successor(scene: Scene) -> Verdict {
    for _ in 0..2 {
        let (client, wire) = scene.wired().await?;
        let successor = scene.client().await?;
        let guard = client.mutex(scene.key())?.acquire().await?;
        let lock = successor.mutex(scene.key())?;
        let waiting = tokio::spawn(async move { lock.acquire().await });
        wire.always(Operation::Renew, Fault::Silence);
        let mut deadline = scene.now();
        while let HoldState::Held { until } | HoldState::AtRisk { until } = guard.state() {
            deadline = until;
            // Whatever was acknowledged before the wire was cut may still move it.
            tokio::select! {
                _ = guard.extended(until) => {}
                _ = guard.ending() => {}
            }
        }
        let limit = scene.longest().await? + SOON;
        let granted = scene.joined(limit, "a successor", waiting).await?;
        let at = scene.now();
        expect(
            deadline < at,
            "the holder's own deadline to be before its successor's grant",
            format_args!("{:?} after it", deadline.since(at)),
        )?;
        // The store's view: a waiter that was told by the store was not told before that instant either.
        expect(!guard.state().is_held(), "a holder that knows", format_args!("{:?}", guard.state()))?;
        granted.release().await?;
    }
    the_store_waits_for_the_deadline(&scene).await
}

/// Straight at the store, where no waiter's own delay hides an early grant: what the holder counts on it has to keep.
async fn the_store_waits_for_the_deadline(scene: &Scene) -> Verdict {
    let (client, wire) = scene.wired().await?;
    let guard = client.mutex(scene.named("close"))?.acquire().await?;
    // So that the last acknowledged renewal is not the opening.
    let (HoldState::Held { until } | HoldState::AtRisk { until }) = guard.state() else {
        return Err(Failure::new("a hold", format_args!("{:?}", guard.state())));
    };
    scene.within(scene.ttl(), "a renewal", guard.extended(until)).await?;
    wire.always(Operation::Renew, Fault::Silence);
    let other = scene.session(crate::scene::LONG).await?;
    let mut ticket = 0;
    loop {
        ticket += 1;
        let state = guard.state();
        let claimed = other.claim(&scene.named("close"), ticket, false).await?;
        if let lock_core::Claimed::Granted { .. } = claimed {
            // Looked at before the claim was sent: if it was held by then, two held it.
            let held_after = matches!(guard.state(), HoldState::Held { .. } | HoldState::AtRisk { .. });
            return expect(
                !held_after,
                "a holder that had ended by the time of the grant",
                format_args!("{state:?} before the grant, and {:?} after it", guard.state()),
            );
        }
        scene.pause(Duration::from_millis(1)).await;
    }
}

async fn an_early_loss_is_still_told(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let held = guard.held();
    let ended = client.force_release(scene.key(), None).await?;
    expect_eq("holds ended by force", ended, 1)?;
    scene.until(scene.ttl() + NOISE, "the end of the hold", async || Ok(!held.state().is_held())).await?;
    // Nobody listened until now.
    let reason = scene.within(NOISE, "the news of a loss that happened earlier", guard.lost()).await?;
    expect(
        matches!(reason, Reason::Revoked | Reason::Forgotten),
        "it was ended by force",
        format_args!("{reason}"),
    )?;
    let end = scene.within(NOISE, "the end that happened earlier", held.ending()).await?;
    expect_eq("the end", end, End::Lost(reason))?;
    let ran = guard.run(std::future::ready(())).await;
    expect(ran.is_err(), "work that is ready at once not to be taken for done in time", "it was")
}

async fn a_waiter_whose_lease_dies_gets_an_error(scene: Scene) -> Verdict {
    let holder = scene.client().await?;
    let held = holder.mutex(scene.key())?.acquire().await?;
    let (client, wire) = scene.wired().await?;
    let lock = client.mutex(scene.key())?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    scene.queue(&scene.key(), 1).await?;
    wire.cut();
    let answer = scene.within(scene.ttl() + SOON, "the waiter's answer", waiting).await?;
    let answer = without_panic(answer)?;
    match answer {
        Ok(guard) => {
            return Err(Failure::new("an error for a waiter whose lease is over", format_args!("{guard:?}")));
        }
        Err(error) => expect(
            matches!(error.kind(), ErrorKind::SessionLost(_)) && error.is_retryable(),
            "a lost session, and that one may try again",
            error,
        )?,
    }
    wire.heal();
    held.release().await?;
    // Its place in the queue is dead, too: it blocks nobody, and the next attempt opens a new session.
    let limit = scene.longest().await? + SOON;
    drop(scene.granted(limit, "a later attempt", &client, scene.key()).await?);
    Ok(())
}

async fn the_ttl_in_force_is_told(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let backend = scene.backend().await?;
    let options = lock_core::SessionOptions::new(
        lock_core::SessionId::random()?,
        lock_core::Domain(0),
        scene.ttl(),
        lock_core::HolderInfo::new(1),
    );
    let opened = backend.open(&options, lock_core::EventSink::new(|_| {})).await?;
    expect_eq("the client's TTL is the store's", client.ttl(), opened.ttl)?;
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(24 * 3600 + 1), Duration::MAX]
    {
        let error = match LockClient::builder(backend.clone()).ttl(ttl).build() {
            Ok(client) => {
                return Err(Failure::new(
                    format_args!("no client with a TTL of {ttl:?}"),
                    format_args!("{client:?}"),
                ));
            }
            Err(error) => error,
        };
        expect_eq("the kind of error", error.kind().clone(), ErrorKind::InvalidInput)?;
        expect_eq("its effect", error.took_effect(), Effect::NotApplied)?;
    }
    Ok(())
}
