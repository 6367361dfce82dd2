//! Processes that are stopped, threads that are blocked, machines that sleep, clocks that step.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{End, HoldState, LockClient, Lost, Reason};

use crate::SkewedClock;
use crate::case::cases;
use crate::scene::{SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "pauses":
    67 => a_stopped_holder_sees_the_loss,
    68 => a_blocked_runtime_sees_the_loss,
    70 => the_stores_wall_clock_steps,
    71 => the_clients_wall_clock_steps,
    72 => a_machine_that_slept_sees_the_loss,
}

/// What a process may find out late only because the machine is busy is not found out late here: the first look counts.
async fn a_stopped_holder_sees_the_loss(scene: Scene) -> Verdict {
    let successor = scene.client().await?;
    let limit = scene.longest().await? + SOON;
    for look in ["state", "work"] {
        let mut child = scene.child().await?;
        child.acquire(&scene.key()).await?;
        if look == "work" {
            // The work is under way when its process is stopped.
            child.order("work").await?;
        }
        child.stop()?;
        let held = scene.granted(limit, "the key of a stopped process", &successor, scene.key()).await?;
        child.resume()?;
        let answer = if look == "work" { child.answer().await? } else { child.ask("state").await? };
        expect_eq(
            format_args!("what the process sees that was stopped, by {look}"),
            answer,
            "lost expired".to_owned(),
        )?;
        expect_eq(
            "what its release says",
            child.ask("release").await?,
            End::Lost(Reason::Expired).to_string(),
        )?;
        expect_eq("the successor's release", held.release().await?, End::Released)?;
    }
    Ok(())
}

/// A runtime of one thread, and somebody who blocks it: no task of the engine has run when the holder looks.
async fn a_blocked_runtime_sees_the_loss(scene: Scene) -> Verdict {
    let backend = scene.backend().await?;
    let (ttl, key) = (scene.ttl(), scene.key());
    let blocked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = LockClient::builder(backend).ttl(ttl).build()?;
            let guard = client.mutex(key)?.acquire().await?;
            std::thread::sleep(ttl + Duration::from_millis(50));
            let state = guard.state();
            let ran = guard.run(std::future::ready(())).await;
            Verdict::Ok((state, ran))
        })
    });
    let looked = tokio::task::spawn_blocking(move || blocked.join()).await;
    let looked = without_panic(looked)?;
    let (state, ran) = looked.map_err(|_| Failure::new("no panic", "one"))??;
    expect_eq(
        "the first look after the thread was blocked",
        state,
        HoldState::Ended(End::Lost(Reason::Expired)),
    )?;
    expect_eq("the first poll of its work", ran, Err(Lost(Reason::Expired)))
}

/// The clock that the store reads. Leases are not its business where boot time counts them; tokens may jump, never fall.
async fn the_stores_wall_clock_steps(scene: Scene) -> Verdict {
    let clock = store_clock(&scene)?;
    if scene.is_weaker() {
        return leases_follow_the_wall_clock(&scene, &clock).await;
    }
    let client = scene.client().await?;
    let lock = client.mutex(scene.key())?;
    let held = client.mutex(scene.named("held"))?.acquire().await?;
    let mut last = lock.acquire().await?.token();
    for step in [60_000_000, -60_000_000, -60_000_000, 120_000_000] {
        clock.step_wall(step);
        let guard = scene.within(SOON, "the key of a released guard", lock.acquire()).await??;
        let token = guard.token();
        expect(token > last, format_args!("a token above {last} after a step of {step} µs"), token)?;
        last = token;
    }
    scene.pause(scene.ttl() * 2).await;
    expect(
        matches!(held.state(), HoldState::Held { .. }),
        "held as before",
        format_args!("{:?}", held.state()),
    )?;
    expect_eq("its release", held.release().await?, End::Released)
}

/// A store whose leases are instants of its wall clock: a step ahead ends them, and their holders are told; a step back lets a
/// dead holder keep its key for that much longer. Tokens rise all the same.
async fn leases_follow_the_wall_clock(scene: &Scene, clock: &SkewedClock) -> Verdict {
    const MINUTE: i64 = 60_000_000;
    let (client, other) = (scene.client().await?, scene.client().await?);
    let held = client.mutex(scene.key())?.acquire().await?;
    let mut last = held.token();
    clock.step_wall(MINUTE);
    let told = scene.within(scene.ttl(), "a word to the holder whose lease was ended", held.ending()).await?;
    expect(matches!(told, End::Lost(_)), "a loss", format_args!("{told:?}"))?;
    for step in [0, -MINUTE, -MINUTE, 2 * MINUTE] {
        clock.step_wall(step);
        let token = scene.free_again(&other, scene.key()).await?.token();
        expect(token > last, format_args!("a token above {last:?} after a step of {step} µs"), token)?;
        last = token;
    }
    let dead = scene.session(scene.ttl()).await?;
    dead.take(&scene.named("dead"), 1).await?;
    clock.step_wall(-MINUTE);
    scene.pause(scene.longest().await? * 2).await;
    let busy = scene.client().await?.mutex(scene.named("dead"))?.try_acquire().await?;
    expect(busy.is_err(), "busy for as long as the clock has to go again", "granted")?;
    clock.step_wall(MINUTE);
    let now = scene.client().await?;
    drop(scene.granted(SOON, "the key of a lease that is over now", &now, scene.named("dead")).await?);
    Ok(())
}

fn store_clock(scene: &Scene) -> Verdict<SkewedClock> {
    scene
        .fixture()
        .clock()
        .ok_or_else(|| Failure::new("a store whose clock can be stepped", "the fixture has no hook `clock`"))
}

async fn the_clients_wall_clock_steps(scene: Scene) -> Verdict {
    let clock = SkewedClock::new();
    let client = scene.client_with(|builder| builder.clock(Arc::new(clock.clone()))).await?;
    let other = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    for step in [3_600_000_000, -7_200_000_000] {
        clock.step_wall(step);
        tokio::select! {
            state = guard.changed(guard.state()) => {
                return Err(Failure::new("no effect on a lease", format_args!("{state:?}")));
            }
            () = scene.pause(scene.ttl() * 3 / 2) => {}
        }
        let busy = other.mutex(scene.key())?.try_acquire().await?;
        expect(busy.is_err(), "busy for others", "granted")?;
    }
    let token = guard.token();
    guard.release().await?;
    let next = client.mutex(scene.key())?.acquire().await?;
    expect(next.token() > token, "a higher token", next.token())
}

async fn a_machine_that_slept_sees_the_loss(scene: Scene) -> Verdict {
    let clock = SkewedClock::new();
    let client = scene.client_with(|builder| builder.clock(Arc::new(clock.clone()))).await?;
    let guards =
        [client.mutex(scene.named("a"))?.acquire().await?, client.mutex(scene.named("b"))?.acquire().await?];
    clock.sleep_machine(scene.ttl() * 2);
    expect_eq(
        "the first look after the machine slept",
        guards[0].state(),
        HoldState::Ended(End::Lost(Reason::Expired)),
    )?;
    let ran = guards[1].run(std::future::ready(())).await;
    expect_eq("the first poll of work after the machine slept", ran, Err(Lost(Reason::Expired)))?;
    // And it can go on.
    drop(scene.granted(SOON * 5, "another lock after that", &client, scene.named("c")).await?);
    Ok(())
}
