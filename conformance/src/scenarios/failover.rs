//! Failover: the leader is lost or cut off, and another node takes over, which may not know all that was acknowledged.

use lock_core::{Clock, End, HoldState, LockClient, LockKey, Reason, SystemClock};

use super::partitions::last_deadline;
use crate::case::cases;
use crate::remote::Loss;
use crate::scene::{NOISE, SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "failover":
    63 => an_old_leader_decides_nothing,
    73 => a_leader_is_lost for 20,
    74 => a_replica_without_the_lock_takes_over for 20,
}

/// It still answers whoever reaches it. Where it may grant all the same, whoever holds the lock elsewhere does not suffer from it.
async fn an_old_leader_decides_nothing(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let old = scene.remote()?.isolate_leader(&scene.key()).await?;
    let guard = scene.free_again(&client, scene.key()).await?;
    let stray = LockClient::builder(scene.remote()?.lazy_backend_through(&old)?).ttl(scene.ttl()).build()?;
    let lock = stray.mutex(scene.key())?;
    for _ in 0..10 {
        match scene.within(SOON * 10, "an answer of the old leader", lock.try_acquire()).await? {
            Ok(Ok(granted)) if !scene.is_weaker() => {
                return Err(Failure::new(
                    "no grant by the old leader",
                    format_args!("{:?}", granted.token()),
                ));
            }
            Err(error) => expect(error.is_retryable(), "an error that passes", error)?,
            Ok(_) => {}
        }
        scene.pause(scene.ttl() / 5).await;
    }
    scene.is_renewed(&guard).await?;
    expect_eq("the end", guard.release().await?, End::Released)
}

/// While somebody holds, somebody waits and somebody is renewed.
async fn a_leader_is_lost(scene: Scene) -> Verdict {
    for how in [Loss::Killed, Loss::Stopped] {
        lost_while_it_is_held(&scene, how)
            .await
            .map_err(|failure| failure.within(format_args!("{how:?}")))?;
    }
    Ok(())
}

/// The hold is kept under its token, or its holder is told before anybody else is granted the lock.
async fn lost_while_it_is_held(scene: &Scene, how: Loss) -> Verdict {
    let key = scene.named(&format!("{how:?}"));
    let (client, other) = (scene.client().await?, scene.client().await?);
    let guard = client.mutex(key.clone())?.acquire().await?;
    let waiting = scene.acquiring(&other, key.clone())?;
    let waiting = tokio::spawn(async move { (waiting.await, SystemClock::new().boot()) });
    scene.queue(&key, 1).await?;
    scene.is_renewed(&guard).await?;
    scene.remote()?.lose_leader(&key, how).await?;
    let token = guard.token();
    let lost = tokio::select! {
        deadline = last_deadline(&guard) => Some(deadline),
        () = scene.pause(scene.longest().await? * 3) => None,
    };
    let over = match lost {
        Some(deadline) => deadline,
        None => {
            scene.is_renewed(&guard).await?;
            let before = scene.now();
            expect_eq("its release", guard.release().await?, End::Released)?;
            before
        }
    };
    let limit = scene.longest().await? * 2 + SOON * 5;
    let (answer, at) = without_panic(scene.within(limit, "an answer to the waiter", waiting).await?)?;
    let next = match without_panic(answer)? {
        Ok(next) => {
            let end = if lost.is_some() { "own deadline" } else { "release" };
            expect(
                over < at,
                format_args!("the holder's {end} to be before its successor's grant"),
                "it came later",
            )?;
            next
        }
        // Its own session has ended meanwhile.
        Err(error) if error.is_retryable() => scene.free_again(&other, key).await?,
        Err(error) => return Err(error.into()),
    };
    expect(next.token() > token, format_args!("a token above {token}"), next.token())?;
    next.release().await?;
    Ok(())
}

/// The documented outcome of a failover that loses what was acknowledged: the lock is granted again, under a higher token, and
/// the first holder is told within one TTL. Also where the new leader knows the key, but not how often it was granted since.
async fn a_replica_without_the_lock_takes_over(scene: Scene) -> Verdict {
    for (key, granted_before) in [(scene.key(), false), (scene.named("known"), true)] {
        let what = if granted_before { "a key that was granted before" } else { "a new key" };
        taken_over_without(&scene, key, granted_before).await.map_err(|failure| failure.within(what))?;
    }
    Ok(())
}

async fn taken_over_without(scene: &Scene, key: LockKey, granted_before: bool) -> Verdict {
    let (client, other) = (scene.client().await?, scene.client().await?);
    let lock = client.mutex(key.clone())?;
    let often = if granted_before { 3 } else { 0 };
    for _ in 0..often {
        lock.acquire().await?.release().await?;
    }
    scene.remote()?.hold_back_replicas(&key).await?;
    for _ in 0..often {
        lock.acquire().await?.release().await?;
    }
    let guard = lock.acquire().await?;
    scene.remote()?.lose_leader(&key, Loss::Killed).await?;
    let (first, left) = (guard.token(), scene.state(&key).await?);
    // Where it is known, it may have ended by itself until now: then nothing of this is played.
    expect(
        left.fence < Some(first) && left.holders.is_empty() && left.fence.is_some() == granted_before,
        format_args!("a new leader that has not heard of the token {first}"),
        format_args!("{left:?}"),
    )?;
    let told = scene.within(scene.ttl() + NOISE, "the news that the hold is lost", guard.ending());
    let (next, end) = tokio::join!(scene.free_again(&other, key), told);
    let (next, end) = (next?, end?);
    expect(next.token() > first, format_args!("a token above {first}"), next.token())?;
    expect(
        matches!(end, End::Lost(Reason::Forgotten | Reason::SessionEnded | Reason::Expired)),
        "a loss",
        format_args!("{end:?}"),
    )?;
    expect_eq("the state of the first holder", guard.state(), HoldState::Ended(end))?;
    next.release().await?;
    Ok(())
}
