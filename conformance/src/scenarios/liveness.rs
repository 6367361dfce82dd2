//! Whoever waits is served, and nobody waits for longer than they said.

use std::time::Duration;

use lock_core::{AcquireOptions, ErrorKind, Liveness, Operation, Wait};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::scene::{LONG, NOISE, SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect};

cases! { "liveness":
    12 => a_released_key_is_free_at_once,
    13 => the_release_wakes_the_waiter,
    14 => a_crashed_holders_key_is_free_in_time,
    15 => no_wake_up_is_lost,
    16 => a_hundred_waiters_are_served,
    #[alone] 17 => patience_is_kept,
    18 => zero_patience_is_one_attempt,
}

async fn a_released_key_is_free_at_once(scene: Scene) -> Verdict {
    let (one, other) = (scene.client().await?, scene.client().await?);
    let (mine, yours) = (one.mutex(scene.key())?, other.mutex(scene.key())?);
    for _ in 0..20 {
        mine.acquire().await?.release().await?;
        let granted = yours.try_acquire().await?;
        let granted =
            granted.map_err(|busy| Failure::new("free as soon as the release has returned", busy))?;
        granted.release().await?;
    }
    Ok(())
}

/// With leases so long that no fallback could be the reason.
async fn the_release_wakes_the_waiter(scene: Scene) -> Verdict {
    let (one, other) = (scene.client_with(|b| b.ttl(LONG)).await?, scene.client_with(|b| b.ttl(LONG)).await?);
    let held = one.mutex(scene.key())?.acquire().await?;
    let lock = other.mutex(scene.key())?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    scene.queue(&scene.key(), 1).await?;
    held.release().await?;
    drop(scene.joined(SOON, "the waiter's grant after the release", waiting).await?);
    Ok(())
}

async fn a_crashed_holders_key_is_free_in_time(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let lock = client.mutex(scene.key())?;
    let longest = scene.longest().await?;
    // A session that nobody renews is all that a store sees of a crash.
    let crashed = scene.session(scene.ttl()).await?;
    crashed.take(&scene.key(), 1).await?;
    scene
        .within(longest + NOISE, "the key of a session that nobody renews", lock.acquire())
        .await??
        .release()
        .await?;
    if scene.fixture().address().is_none() {
        return Ok(());
    }
    let mut child = scene.child().await?;
    child.acquire(&scene.key()).await?;
    child.kill().await?;
    let limit = match scene.capabilities().await?.liveness {
        Liveness::ProcessAndLease => SOON,
        _ => longest + NOISE,
    };
    drop(scene.granted(limit, "the key of a killed process", &client, scene.key()).await?);
    Ok(())
}

/// A release and the waiter's subscription, as close together as can be.
async fn no_wake_up_is_lost(scene: Scene) -> Verdict {
    let (one, other) = (scene.client_with(|b| b.ttl(LONG)).await?, scene.client_with(|b| b.ttl(LONG)).await?);
    let (mine, yours) = (one.mutex(scene.key())?, other.mutex(scene.key())?);
    let mut random = fastrand::Rng::with_seed(scene.seed());
    for round in 0..200 {
        let held = mine.acquire().await?;
        let waiting = tokio::spawn({
            let yours = yours.clone();
            async move { yours.acquire().await?.release().await }
        });
        for _ in 0..random.u32(0..40) {
            tokio::task::yield_now().await;
        }
        held.release().await?;
        let _end = scene.joined(SOON, format_args!("the waiter's grant in round {round}"), waiting).await?;
    }
    Ok(())
}

async fn a_hundred_waiters_are_served(scene: Scene) -> Verdict {
    let first = scene.client().await?;
    let held = first.mutex(scene.key())?.acquire().await?;
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let client = scene.client().await?;
        for _ in 0..10 {
            let lock = client.mutex(scene.key())?;
            waiting.spawn(async move { lock.acquire().await?.release().await });
        }
    }
    scene.queue(&scene.key(), 100).await?;
    held.release().await?;
    scene
        .within(SOON * 10, "the service of a hundred waiters", async {
            while let Some(served) = waiting.join_next().await {
                without_panic(served)??;
            }
            Ok(())
        })
        .await?
}

async fn patience_is_kept(scene: Scene) -> Verdict {
    const PATIENCE: Duration = Duration::from_millis(300);
    const TOLERANCE: Duration = Duration::from_millis(100);
    let holder = scene.client().await?;
    let _held = holder.mutex(scene.key())?.acquire().await?;
    let (client, wire) = scene.wired_with(|builder| builder.ttl(LONG)).await?;
    let lock = client.mutex(scene.key())?;
    let options = AcquireOptions::new().wait(Wait::AtMost(PATIENCE));
    for cut in [false, true] {
        if cut {
            wire.cut();
        }
        let began = scene.now();
        let error = match lock.acquire_with(&options).await {
            Ok(guard) => return Err(Failure::new("no grant", format_args!("{guard:?}"))),
            Err(error) => error,
        };
        let took = scene.now().since(began);
        expect(
            took >= PATIENCE && took <= PATIENCE + TOLERANCE,
            format_args!("an answer after {PATIENCE:?} to {:?} (cut off: {cut})", PATIENCE + TOLERANCE),
            format_args!("{error} after {took:?}"),
        )?;
        let is_busy = matches!(error.kind(), ErrorKind::WaitTimedOut(_));
        expect(
            is_busy != cut,
            if cut { "a store that is cut off is never busy" } else { "busy" },
            format_args!("{error}"),
        )?;
    }
    Ok(())
}

async fn zero_patience_is_one_attempt(scene: Scene) -> Verdict {
    let holder = scene.client().await?;
    let _held = holder.mutex(scene.key())?.acquire().await?;
    let (client, wire) = scene.wired().await?;
    let lock = client.mutex(scene.key())?;
    for turn in 1..=2 {
        let began = scene.now();
        let error = if turn == 1 {
            lock.acquire_with(&AcquireOptions::new().wait(Wait::AtMost(Duration::ZERO))).await.err()
        } else {
            lock.try_acquire()
                .await?
                .err()
                .map(|busy| lock_core::Error::new(ErrorKind::WaitTimedOut(Box::new(busy)), ""))
        };
        let took = scene.now().since(began);
        expect(error.is_some_and(|error| error.busy().is_some()), "busy", "granted, or another error")?;
        expect(took < SOON, "an answer at once", format_args!("it took {took:?}"))?;
        crate::verdict::expect_eq("claims that were sent", wire.calls(Operation::Claim), turn)?;
    }
    Ok(())
}
