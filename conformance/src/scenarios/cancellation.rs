//! Futures and guards that are dropped, wherever that happens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lock_core::{AcquireOptions, End, LockClient, Operation, Reason};

use crate::case::cases;
use crate::runtime::runtime;
use crate::scene::{LONG, SOON, Scene};
use crate::verdict::{Failure, Verdict, expect, expect_eq};
use lock_core::testing::Fault;

cases! { "cancellation":
    41 => dropped_at_every_await_point,
    42 => a_grant_after_its_caller_has_gone_is_undone,
    43 => dropping_a_guard_releases,
    44 => a_guard_may_be_dropped_without_a_runtime,
    45 => a_panic_while_holding_releases,
    46 => a_release_says_how_it_went,
    47 => a_leaked_guard_ends_at_its_age,
}

/// Free, and behind a holder that gives up meanwhile; with replies that take a while, so that there is an await point
/// at each step.
async fn dropped_at_every_await_point(scene: Scene) -> Verdict {
    let other = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let yours = other.mutex(scene.key())?;
    for contended in [false, true] {
        for polls in 0.. {
            let (client, wire) = scene.wired_with(|builder| builder.ttl(LONG)).await?;
            wire.always(Operation::Claim, Fault::AnsweredAfter(Duration::from_millis(2)));
            let mine = client.mutex(scene.key())?;
            let held = if contended { Some(yours.acquire().await?) } else { None };
            let mut released = held.is_none();
            let ended = {
                let mut acquiring = pin!(mine.acquire());
                let mut ended = false;
                for poll in 0..polls {
                    if poll == 2 && !released {
                        scene.queue(&scene.key(), 1).await?;
                    }
                    ended = poll_fn(|context| Poll::Ready(acquiring.as_mut().poll(context).is_ready())).await;
                    if ended {
                        break;
                    }
                    scene.pause(Duration::from_millis(1)).await;
                    if poll == 4 && !released {
                        released = true;
                        // Into the future's hands, while it is between two polls.
                        other.force_release(scene.key(), None).await?;
                    }
                }
                ended
            };
            drop(held);
            let granted = scene
                .within(SOON, format_args!("the key after a drop at poll {polls}"), yours.acquire())
                .await??;
            granted.release().await?;
            // What had been sent by then may have come in behind the other one, and is given back as soon as it is answered.
            let what = format!("nothing left behind by a drop at poll {polls} (contended: {contended})");
            let mut left = None;
            let idle = scene.until(SOON, what, async || {
                let state = left.insert(scene.state(&scene.key()).await?);
                Ok(state.is_idle())
            });
            idle.await.map_err(|failure| failure.within(format_args!("{left:?}")))?;
            client.shutdown(SOON).await;
            if ended {
                break;
            }
            expect(polls < 200, "an acquire that ends at some time", "it did not in 200 polls")?;
        }
    }
    Ok(())
}

async fn a_grant_after_its_caller_has_gone_is_undone(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired_with(|builder| builder.ttl(LONG)).await?;
    let other = scene.client().await?;
    for fault in [
        Fault::AnsweredAfter(Duration::from_millis(200)),
        Fault::AppliedAfter(Duration::from_millis(200)),
        Fault::ReplyLost,
    ] {
        wire.fail(Operation::Claim, [fault.clone()]);
        let lock = client.mutex(scene.key())?;
        let before = wire.calls(Operation::Claim);
        let acquiring = tokio::spawn(async move { lock.acquire().await });
        scene.until(SOON, "a claim that is sent", async || Ok(wire.calls(Operation::Claim) > before)).await?;
        scene.pause(Duration::from_millis(20)).await;
        acquiring.abort();
        // With whatever it has won by now.
        drop(acquiring);
        scene
            .granted(SOON, format_args!("the key after {fault:?}"), &other, scene.key())
            .await?
            .release()
            .await?;
        scene
            .until(SOON, "nothing left behind", async || Ok(scene.state(&scene.key()).await?.is_idle()))
            .await?;
    }
    Ok(())
}

async fn dropping_a_guard_releases(scene: Scene) -> Verdict {
    let client = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let other = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let began = scene.now();
    drop(guard);
    let took = scene.now().since(began);
    expect(took < Duration::from_millis(50), "a drop that does not block", format_args!("it took {took:?}"))?;
    drop(scene.granted(SOON, "the key of a dropped guard", &other, scene.key()).await?);
    Ok(())
}

async fn a_guard_may_be_dropped_without_a_runtime(scene: Scene) -> Verdict {
    let client = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let other = scene.client().await?;
    // On a thread that knows no runtime: the client's own one does the rest.
    let guard = client.mutex(scene.key())?.acquire().await?;
    let dropped = std::thread::spawn(move || drop(guard)).join();
    expect(dropped.is_ok(), "no panic where there is no runtime", "one")?;
    drop(scene.granted(SOON, "the key of a guard dropped elsewhere", &other, scene.key()).await?);
    // After the client's runtime has gone: nobody can do the rest, and the TTL answers.
    let backend = scene.backend().await?;
    let (ttl, key) = (scene.ttl(), scene.key());
    let orphan = std::thread::spawn(move || {
        let own = runtime()?;
        let guard = own.block_on(async {
            let client = LockClient::builder(backend).ttl(ttl).build()?;
            client.mutex(key)?.acquire().await
        })?;
        own.shutdown_timeout(SOON);
        let ended = guard.held();
        drop(guard);
        Verdict::Ok(ended)
    })
    .join();
    let ended = orphan.map_err(|_| Failure::new("no panic where the runtime has gone", "one"))??;
    let limit = scene.longest().await? + SOON;
    drop(scene.granted(limit, "the key of a guard whose runtime has gone", &other, scene.key()).await?);
    expect(!ended.state().is_held(), "a hold that has ended", format_args!("{:?}", ended.state()))
}

async fn a_panic_while_holding_releases(scene: Scene) -> Verdict {
    let client = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let other = scene.client().await?;
    let lock = client.mutex(scene.key())?;
    let worker = tokio::spawn(async move {
        let _guard = lock.acquire().await;
        // Quietly: what is expected needs no trace on the screen.
        std::panic::resume_unwind(Box::new("as planned"));
    });
    expect(worker.await.is_err(), "a panic", "none")?;
    drop(scene.granted(SOON, "the key of whoever panicked", &other, scene.key()).await?);
    Ok(())
}

async fn a_release_says_how_it_went(scene: Scene) -> Verdict {
    let limit = Duration::from_millis(200);
    let (client, wire) = scene.wired_with(|builder| builder.call_timeout(limit)).await?;
    let lock = client.mutex(scene.key())?;
    expect_eq("a release", lock.acquire().await?.release().await?, End::Released)?;
    let guard = lock.acquire().await?;
    client.force_release(scene.key(), None).await?;
    let end = guard.release().await?;
    expect(
        matches!(end, End::Lost(Reason::Revoked | Reason::Forgotten)),
        "a release that says that the lock had been lost",
        end,
    )?;
    let guard = lock.acquire().await?;
    // Always: the engine may still be giving back what was lost before.
    wire.always(Operation::Release, Fault::Silence);
    let began = scene.now();
    let released = guard.release().await;
    let took = scene.now().since(began);
    expect(released.is_err(), "an error where no answer came", format_args!("{released:?}"))?;
    expect(
        took <= limit + Duration::from_millis(150),
        format_args!("an error after {limit:?}"),
        format_args!("after {took:?}"),
    )?;
    // The engine goes on until it is settled.
    wire.heal();
    let other = scene.client().await?;
    drop(scene.granted(SOON, "the key, by the release that goes on", &other, scene.key()).await?);
    Ok(())
}

async fn a_leaked_guard_ends_at_its_age(scene: Scene) -> Verdict {
    let age = Duration::from_millis(500);
    let client = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let other = scene.client().await?;
    let lock = client.mutex(scene.key())?;
    let began = scene.now();
    let guard = lock.acquire_with(&AcquireOptions::new().hold_at_most(age)).await?;
    let held = guard.held();
    std::mem::forget(guard);
    let granted = scene.granted(age + SOON, "the key of a leaked guard", &other, scene.key()).await?;
    let took = scene.now().since(began);
    expect(took >= age, format_args!("no successor before {age:?}"), format_args!("one after {took:?}"))?;
    expect_eq("the end of the leaked hold", held.ending().await, End::Lost(Reason::HeldTooLong))?;
    expect(granted.token() > held.token(), "a higher token", granted.token())
}
