//! In the order in which they came, and nobody for ever at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{Claimed, Event, Lock, LockClient, Operation};
use tokio::task::{JoinHandle, JoinSet};

use crate::case::cases;
use crate::scene::{LONG, NOISE, SOON, Scene, mutex, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "fairness":
    19 => first_come_first_served,
    20 => a_cancelled_waiter_blocks_nobody,
    21 => a_dead_waiter_is_skipped,
    22 => one_release_wakes_one,
    23 => nobody_is_starved,
}

/// Who was served, in which order.
type Served = Arc<Mutex<Vec<usize>>>;

async fn first_come_first_served(scene: Scene) -> Verdict {
    let fair = !scene.is_promised_less() || !scene.is_weaker();
    let key = scene.key();
    let first = scene.client().await?;
    let held = first.mutex(key.clone())?.acquire().await?;
    let served: Served = Arc::default();
    let mut waiting = JoinSet::new();
    for number in 0..6 {
        let served = served.clone();
        if scene.fixture().address().is_some() && number % 2 == 0 {
            let mut child = scene.child().await?;
            child.ask(format!("wait {}", key.as_str())).await?;
            waiting.spawn(async move {
                crate::child::token(&child.ask("granted").await?)?;
                note(&served, number);
                child.ask("release").await.map(|_| ())
            });
        } else {
            let lock = scene.client().await?.mutex(key.clone())?;
            waiting.spawn(async move {
                let guard = lock.acquire().await?;
                note(&served, number);
                guard.release().await?;
                Ok(())
            });
        }
        // Each is known to wait before the next one comes.
        scene.queue(&key, number + 1).await?;
    }
    held.release().await?;
    scene
        .within(SOON * 10, "the service of six waiters", async {
            while let Some(waiter) = waiting.join_next().await {
                without_panic(waiter)??;
            }
            Verdict::Ok(())
        })
        .await??;
    let mut order = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !fair {
        order.sort_unstable();
    }
    expect_eq("the order in which six waiters were served", order, (0..6).collect())
}

fn note(served: &Served, number: usize) {
    served.lock().unwrap_or_else(PoisonError::into_inner).push(number);
}

async fn a_cancelled_waiter_blocks_nobody(scene: Scene) -> Verdict {
    // Leases so long that only the withdrawal can be the reason.
    let client = async || scene.client_with(|builder| builder.ttl(LONG)).await;
    let (one, other, last) = (client().await?, client().await?, client().await?);
    let held = one.mutex(scene.key())?.acquire().await?;
    let cancelled = wait(&other, &scene)?;
    scene.queue(&scene.key(), 1).await?;
    let waiting = wait(&last, &scene)?;
    scene.queue(&scene.key(), 2).await?;
    cancelled.abort();
    scene.queue(&scene.key(), 1).await?;
    held.release().await?;
    drop(scene.joined(SOON, "the grant of whoever waited behind", waiting).await?);
    Ok(())
}

fn wait(client: &LockClient, scene: &Scene) -> Verdict<JoinHandle<lock_core::Result<lock_core::Guard>>> {
    let lock = client.mutex(scene.key())?;
    Ok(tokio::spawn(async move { lock.acquire().await }))
}

async fn a_dead_waiter_is_skipped(scene: Scene) -> Verdict {
    let one = scene.client().await?;
    let (last, wire) = scene.wired().await?;
    let key = scene.key();
    let held = one.mutex(key.clone())?.acquire().await?;
    let mut child = match scene.fixture().address() {
        Some(_) => Some(scene.child().await?),
        None => None,
    };
    if let Some(child) = &mut child {
        // It is there and has its session: what dies first must not have ended before it waits, too.
        child.acquire(&scene.named("warm")).await?;
        child.ask("release").await?;
    }
    // A session that nobody renews is all that a store sees of a dead one.
    let dead = scene.session(scene.ttl()).await?;
    let claimed = dead.session.claim(&mutex(&key, 1).waiting(true)).await?;
    expect(matches!(claimed, Claimed::Queued { .. }), "a place in the queue", format_args!("{claimed:?}"))?;
    if let Some(mut child) = child {
        child.ask(format!("wait {}", key.as_str())).await?;
        scene.queue(&key, 2).await?;
        child.kill().await?;
    }
    let waiting = wait(&last, &scene)?;
    scene.until(SOON, "a claim behind the dead", async || Ok(wire.calls(Operation::Claim) > 0)).await?;
    held.release().await?;
    let limit = scene.longest().await? + NOISE;
    drop(scene.joined(limit, "the grant of whoever waited behind the dead", waiting).await?);
    Ok(())
}

async fn one_release_wakes_one(scene: Scene) -> Verdict {
    let holder = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let held = holder.mutex(scene.key())?.acquire().await?;
    let (mut wires, mut waiting) = (Vec::new(), JoinSet::new());
    for _ in 0..5 {
        let (client, wire) = scene.wired_with(|builder| builder.ttl(LONG)).await?;
        wires.push(wire);
        for _ in 0..10 {
            let lock = client.mutex(scene.key())?;
            waiting.spawn(async move { lock.acquire().await });
        }
    }
    scene.queue(&scene.key(), 50).await?;
    let told = || wires.iter().map(|wire| wire.events().len()).sum::<usize>();
    let asked = || wires.iter().map(|wire| wire.calls(Operation::Claim)).sum::<usize>();
    // Whoever has come into the queue may look at it once more before it only waits.
    let mut looked = usize::MAX;
    while looked != asked() {
        looked = asked();
        scene.pause(Duration::from_millis(150)).await;
    }
    let (told_before, asked_before) = (told(), asked());
    held.release().await?;
    let granted = scene.within(SOON, "the grant of the first of fifty", waiting.join_next()).await?;
    let guard = granted.ok_or_else(|| Failure::new("fifty waiters", "none"))?;
    let _guard = without_panic(guard)??;
    // Whatever else the release set going shows by now, or within this time.
    scene.pause(Duration::from_millis(300)).await;
    let grants =
        wires.iter().flat_map(crate::Wire::events).filter(|it| matches!(it, Event::Granted { .. })).count();
    expect(grants <= 1, "one grant that is told of", format_args!("{grants}"))?;
    let (others, claims) = (told() - told_before - grants, asked() - asked_before);
    expect(
        others + claims <= 3,
        "one release to cost the other 49 at most two messages",
        format_args!("{others} further events and {claims} claims"),
    )?;
    waiting.shutdown().await;
    Ok(())
}

/// A stream of readers does not starve a writer, nor do narrow claims a wide one.
async fn nobody_is_starved(scene: Scene) -> Verdict {
    let fair = !scene.is_promised_less() || !scene.is_weaker();
    let client = scene.client().await?;
    let catalogue = client.rw_lock(scene.named("rw"))?;
    let permits = client.semaphore(scene.named("permits"), 3)?;
    let narrow = permits.permits(1)?;
    for (key, stream, whole) in [
        (scene.named("rw"), catalogue.read(), catalogue.write()),
        (scene.named("permits"), narrow, permits.permits(3)?),
    ] {
        let first = stream.acquire().await?;
        let served: Served = Arc::default();
        let mut waiting = JoinSet::new();
        waiting.spawn(serve(whole, 0, served.clone()));
        scene.queue(&key, 1).await?;
        for number in 1..=5 {
            waiting.spawn(serve(stream.clone(), number, served.clone()));
            if fair {
                scene.queue(&key, number + 1).await?;
            }
        }
        first.release().await?;
        scene
            .within(SOON * 10, format_args!("the service of all who wait for {key}"), async {
                while let Some(waiter) = waiting.join_next().await {
                    without_panic(waiter)??;
                }
                Verdict::Ok(())
            })
            .await??;
        let first = served.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
        if fair {
            expect_eq(format_args!("the first to be served of those who waited for {key}"), first, Some(0))?;
        }
    }
    Ok(())
}

async fn serve(lock: Lock, number: usize, served: Served) -> lock_core::Result<()> {
    let guard = lock.acquire().await?;
    note(&served, number);
    guard.release().await.map(|_| ())
}
