//! Partitions: whoever is cut off stops in time, and nobody is stuck once the network is whole again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{BootTime, End, Error, Guard, HoldState, LockClientBuilder, Lost, Reason, RetryPolicy};

use crate::case::cases;
use crate::proxy::Way;
use crate::scene::{NOISE, SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "partitions":
    62 => an_isolated_holder_stops_before_its_successor,
    64 => one_way_partitions_are_partitions,
    66 => flapping_ends_with_a_grant,
}

async fn an_isolated_holder_stops_before_its_successor(scene: Scene) -> Verdict {
    for _ in 0..2 {
        isolated_while_it_holds(&scene, Way::Both).await?;
    }
    Ok(())
}

/// The successor waits from the beginning: it is granted as early as the store can.
async fn isolated_while_it_holds(scene: &Scene, way: Way) -> Verdict {
    let (client, proxy) = scene.proxied().await?;
    let successor = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let held = guard.held();
    let work = tokio::spawn(async move { held.run(std::future::pending::<()>()).await });
    let waiting = scene.acquiring(&successor, scene.key())?;
    scene.queue(&scene.key(), 1).await?;
    proxy.block(way);
    let told = last_deadline(&guard);
    let granted = async {
        let next = scene.joined(scene.longest().await? * 2 + SOON, "a successor", waiting).await?;
        Ok((next, scene.now(), guard.state()))
    };
    let (deadline, granted) = tokio::join!(told, granted);
    let (next, at, state) = granted.map_err(|failure: Failure| failure.within(format_args!("{way:?}")))?;
    expect(
        deadline < at,
        format_args!("the holder's own deadline to be before its successor's grant ({way:?})"),
        format_args!("{:?} after it", deadline.since(at)),
    )?;
    expect_eq("the holder's state at the grant", state, HoldState::Ended(End::Lost(Reason::Expired)))?;
    let work = without_panic(scene.within(NOISE, "the end of its work", work).await?)?;
    expect_eq("its work", work, Err(Lost(Reason::Expired)))?;
    expect(next.token() > guard.token(), "a higher token", next.token())?;
    proxy.heal();
    next.release().await?;
    granted_in_the_end(scene, &client, scene.ttl() * 2).await?.release().await?;
    Ok(())
}

/// What was acknowledged before the network was cut may still move it.
pub(super) async fn last_deadline(guard: &Guard) -> BootTime {
    let mut deadline = BootTime::from_nanos(0);
    while let HoldState::Held { until } | HoldState::AtRisk { until } = guard.state() {
        deadline = until;
        guard.extended(until).await;
    }
    deadline
}

async fn one_way_partitions_are_partitions(scene: Scene) -> Verdict {
    for way in [Way::ToServer, Way::ToClient] {
        isolated_while_it_holds(&scene, way).await?;
        isolated_while_it_waits(&scene, way).await?;
    }
    Ok(())
}

/// The lock comes to it while it is cut off. It may hear of that, but not keep it; and it does not keep others from it.
async fn isolated_while_it_waits(scene: &Scene, way: Way) -> Verdict {
    let (client, proxy) = scene.proxied().await?;
    let other = scene.client().await?;
    let held = other.mutex(scene.key())?.acquire().await?;
    let waiting = scene.acquiring(&client, scene.key())?;
    scene.queue(&scene.key(), 1).await?;
    proxy.block(way);
    expect_eq("the end", held.release().await?, End::Released)?;
    let limit = scene.longest().await? * 2 + SOON;
    let next = scene.granted(limit, "the key for another", &other, scene.key()).await?;
    let at = scene.now();
    match without_panic(scene.within(NOISE, "an answer to the one who is cut off", waiting).await?)? {
        Ok(guard) => {
            let state = guard.state();
            expect(!state.is_held(), "a hold that had ended by then", format_args!("{state:?} at {at:?}"))?;
        }
        Err(error) => expect(error.is_retryable(), "an error that passes", error)?,
    }
    proxy.heal();
    next.release().await?;
    granted_in_the_end(scene, &client, scene.ttl() * 2).await?.release().await?;
    Ok(())
}

/// Two clients fight for a key over a network that comes and goes.
async fn flapping_ends_with_a_grant(scene: Scene) -> Verdict {
    const FLAPS: usize = 10;
    let mut random = fastrand::Rng::with_seed(scene.seed());
    // Pauses grow for as long as nothing gets through: the longest would be no part of what is looked at here.
    let brief = |builder: LockClientBuilder| builder.retry(RetryPolicy::default().max(scene.ttl() / 8));
    let (one, network) = scene.proxied_with(brief).await?;
    let other = scene.client_through(&network, brief).await?;
    let healed: Arc<AtomicBool> = Arc::default();
    let fighters = [&one, &other].map(|client| {
        let (lock, healed) = (client.mutex(scene.key()), healed.clone());
        tokio::spawn(async move {
            let lock = lock?;
            while !healed.load(Ordering::SeqCst) {
                // Whatever it comes to: the next turn is another one.
                if let Ok(guard) = lock.acquire().await {
                    let _ = guard.release().await;
                }
            }
            Ok::<(), Error>(())
        })
    });
    for _ in 0..FLAPS {
        match random.u8(0..4) {
            0 => network.reset_all(),
            1 => network.block(Way::ToServer),
            2 => network.block(Way::ToClient),
            _ => network.block(Way::Both),
        }
        scene.pause(scene.ttl().mul_f64(random.f64() * 0.4)).await;
        network.heal();
        scene.pause(Duration::from_millis(random.u64(0..100))).await;
    }
    healed.store(true, Ordering::SeqCst);
    let limit = scene.ttl() * 2;
    let ended = async {
        for fighter in fighters {
            without_panic(fighter.await)??;
        }
        Verdict::Ok(())
    };
    scene.within(limit + NOISE, "the end of the fight", ended).await??;
    for client in [&one, &other, &scene.client().await?] {
        granted_in_the_end(&scene, client, limit).await?.release().await?;
    }
    Ok(())
}

/// A client's session may have ended meanwhile: then it is told, and the next attempt has another.
async fn granted_in_the_end(
    scene: &Scene,
    client: &lock_core::LockClient,
    limit: Duration,
) -> Verdict<Guard> {
    let lock = client.mutex(scene.key())?;
    let granted = async {
        loop {
            match lock.acquire().await {
                Err(error) if error.is_retryable() => {}
                granted => return granted,
            }
        }
    };
    Ok(scene.within(limit + NOISE, "a grant once the network is whole", granted).await??)
}
