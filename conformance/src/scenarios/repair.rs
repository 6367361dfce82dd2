//! What went wrong in the store, or on the way to it, and how it is put right.

use std::time::Duration;

use lock_core::{Certainty, Claimed, End, ErrorKind, Fence, HoldState, Mode, Operation, Reason};

use crate::case::cases;
use crate::scene::{LONG, NOISE, SOON, Scene, mutex};
use crate::verdict::{Failure, Verdict, expect, expect_eq};
use lock_core::testing::Fault;

cases! { "repair":
    81 => a_forgotten_grant_is_told,
    82 => an_orphan_is_freed_when_it_is_wanted,
    83 => a_delayed_claim_is_never_granted,
    84 => an_ended_session_never_comes_back,
    85 => a_clock_a_year_ahead_is_corrected,
    86 => readers_do_not_fence_each_other,
}

/// The session goes on being renewed.
async fn a_forgotten_grant_is_told(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired().await?;
    let other = scene.client().await?;
    for forget in ["released behind its back", "deleted"] {
        let guard = client.mutex(scene.key())?.acquire().await?;
        wire.deafen();
        let (_, session) = wire.sessions()[0].clone();
        if forget == "deleted" {
            scene.fixture().forget(&scene.key()).await?;
        } else {
            session.release(&guard.grant().claim, Certainty::Settled).await?;
        }
        let began = scene.now();
        let end = scene
            .within(
                scene.ttl() + NOISE,
                format_args!("the news of a grant that was {forget}"),
                guard.ending(),
            )
            .await?;
        expect(
            matches!(end, End::Lost(Reason::Forgotten | Reason::Revoked)),
            "the store no longer knows it",
            end,
        )?;
        let took = scene.now().since(began);
        expect(took <= scene.ttl() + NOISE, "the news within a TTL", format_args!("after {took:?}"))?;
        wire.heal();
        let next = scene.granted(SOON, "the key after that", &other, scene.key()).await?;
        next.release().await?;
    }
    Ok(())
}

async fn an_orphan_is_freed_when_it_is_wanted(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired_with(|builder| builder.ttl(LONG)).await?;
    let (_, session) = wire.sessions()[0].clone();
    let claimed = session.claim(&mutex(&scene.key(), 9_999_999)).await?;
    expect(matches!(claimed, Claimed::Granted { .. }), "granted", format_args!("{claimed:?}"))?;
    let other = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let limit = if scene.capabilities().await?.push { SOON } else { scene.ttl() * 2 };
    drop(scene.granted(limit, "the key of a grant that nobody owns", &other, scene.key()).await?);
    // The engine that was at fault is none the worse for it.
    expect_eq(
        "its own locks",
        client.mutex(scene.named("other"))?.acquire().await?.release().await?,
        End::Released,
    )
}

async fn a_delayed_claim_is_never_granted(scene: Scene) -> Verdict {
    let key = scene.key();
    let bare = scene.session(LONG).await?;
    // In the order in which a slow network has it: first the release, then the claim that it is for.
    bare.release(&key, 1, Certainty::MaybeInFlight).await?;
    for wait in [false, true] {
        let late = bare.claim(&key, 1, wait).await;
        let granted = matches!(late, Ok(Claimed::Granted { .. } | Claimed::Queued { .. }));
        expect(!granted, "a claim that arrives after its release to be refused", format_args!("{late:?}"))?;
    }
    // A copy of a claim that had been granted, and was released since.
    bare.take(&key, 2).await?;
    bare.release(&key, 2, Certainty::MaybeInFlight).await?;
    let late = bare.claim(&key, 2, true).await;
    expect(!matches!(late, Ok(Claimed::Granted { .. })), "a copy to be refused", format_args!("{late:?}"))?;
    expect_eq("the key", scene.state(&key).await?.is_idle(), true)?;
    // As it happens: the caller has lost patience by the time its claim arrives.
    let delay = Duration::from_millis(400);
    let (client, wire) = scene.wired_with(|b| b.ttl(LONG).call_timeout(Duration::from_millis(100))).await?;
    wire.fail(Operation::Claim, [Fault::AppliedAfter(delay)]);
    let answer = client.mutex(key.clone())?.try_acquire().await;
    expect(
        answer.as_ref().is_err_and(|error| *error.kind() == ErrorKind::TimedOut),
        "no answer in time",
        format_args!("{answer:?}"),
    )?;
    scene.pause(delay + Duration::from_millis(200)).await;
    expect(
        scene.state(&key).await?.is_idle(),
        "nobody holds it",
        format_args!("{:?}", scene.state(&key).await?),
    )
}

async fn an_ended_session_never_comes_back(scene: Scene) -> Verdict {
    let key = scene.key();
    let ended = scene.session(scene.ttl()).await?;
    ended.take(&key, 1).await?;
    let other = scene.client().await?;
    let limit = scene.longest().await? + SOON;
    let held = scene.granted(limit, "a successor", &other, key.clone()).await?;
    let is_lost = |result: Result<(), lock_core::Error>, what: &str| {
        let lost = result.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::SessionLost(_)));
        expect(lost, format_args!("a lost session at {what}"), format_args!("{result:?}"))
    };
    is_lost(ended.session.renew(&[]).await.map(|_| ()), "a renewal")?;
    is_lost(ended.claim(&key, 2, false).await.map(|_| ()), "a claim")?;
    drop(ended);
    // And an engine: what is acknowledged after the local deadline changes nothing.
    let (client, wire) = scene.wired_with(|builder| builder.call_timeout(Duration::from_secs(20))).await?;
    let guard = client.mutex(scene.named("late"))?.acquire().await?;
    let session = guard.grant().session;
    wire.always(Operation::Renew, Fault::AnsweredAfter(scene.ttl() * 2));
    let end = scene.within(scene.ttl() + SOON, "the end at the local deadline", guard.ending()).await?;
    expect_eq("the end", end, End::Lost(Reason::Expired))?;
    wire.heal();
    scene.pause(scene.ttl() * 2).await;
    expect_eq(
        "the state after the late answer",
        guard.state(),
        HoldState::Ended(End::Lost(Reason::Expired)),
    )?;
    let again = scene.granted(limit, "another session", &client, scene.named("late")).await?;
    expect(again.grant().session != session, "a session of another name", again.grant().session)?;
    expect(held.state().is_held(), "the successor still holds it", format_args!("{:?}", held.state()))
}

/// Also once the key has been idle, and forgotten for it; and, where the store can be started again, after that.
async fn a_clock_a_year_ahead_is_corrected(scene: Scene) -> Verdict {
    const YEAR: i64 = 365 * 24 * 3600 * 1_000_000;
    let clock = scene.fixture().clock().ok_or_else(|| {
        Failure::new("a store whose clock can be stepped", "the fixture has no hook `clock`")
    })?;
    let mut last = None;
    for step in [0, YEAR, -YEAR, YEAR, -YEAR] {
        clock.step_wall(step);
        match scene.fixture().restart().await {
            Err(error) if *error.kind() != ErrorKind::Unsupported => return Err(error.into()),
            _ => {}
        }
        let client = scene.client().await?;
        let guard = scene.granted(SOON, "an idle key", &client, scene.key()).await?;
        expect(
            last < Some(guard.token()),
            format_args!("a token above {last:?} after a step of {step} µs"),
            guard.token(),
        )?;
        last = Some(guard.token());
        guard.release().await?;
        // Time and occasion for whatever tidies up idle keys.
        for number in 0..50 {
            client.mutex(scene.named(&format!("other-{number}")))?.acquire().await?.release().await?;
        }
        scene.pause(Duration::from_millis(200)).await;
        client.shutdown(SOON).await;
    }
    Ok(())
}

async fn readers_do_not_fence_each_other(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let catalogue = client.rw_lock(scene.key())?;
    let mut fence = Fence::new();
    let mut admit = |mode: Mode, token| fence.admit(mode, token);
    let writer = catalogue.write().acquire().await?;
    admit(writer.mode(), writer.token()).map_err(|stale| Failure::new("the writer is admitted", stale))?;
    let old = writer.token();
    writer.release().await?;
    let (one, other) = (catalogue.read().acquire().await?, catalogue.read().acquire().await?);
    for reader in [&one, &other, &one, &other] {
        admit(reader.mode(), reader.token())
            .map_err(|stale| Failure::new("readers beside each other", stale))?;
    }
    expect(admit(Mode::Exclusive, old).is_err(), "an older writer is refused", "it was admitted")?;
    let permits = client.semaphore(scene.named("permits"), 3)?.permits(1)?;
    let mut fence = Fence::new();
    let (one, other) = (permits.acquire().await?, permits.acquire().await?);
    for permit in [&other, &one, &other] {
        fence
            .admit(permit.mode(), permit.token())
            .map_err(|stale| Failure::new("permits beside each other", stale))?;
    }
    Ok(())
}
