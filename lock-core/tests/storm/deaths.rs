//! The memory store among clients that die without a word.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{LockClient, MemoryBackend, VirtualClock};

use crate::world::World;

const TTL: Duration = Duration::from_secs(10);

fn client(backend: &Arc<MemoryBackend>, clock: &VirtualClock, runtime: &World) -> LockClient {
    LockClient::builder(backend.clone())
        .clock(Arc::new(clock.clone()))
        .ttl(TTL)
        .runtime(runtime.handle().clone())
        .build()
        .unwrap()
}

/// A client whose runtime ends while it holds a lock and waits for it, too: nobody closes its session.
fn die_holding_and_waiting(backend: &Arc<MemoryBackend>, clock: &VirtualClock) {
    let doomed = World::new(1);
    doomed.run(async {
        let lock = client(backend, clock, &doomed).mutex("key").unwrap();
        let guard = doomed.outcome(TTL, {
            let lock = lock.clone();
            async move { lock.acquire().await }
        });
        std::mem::forget(guard.await.unwrap().unwrap());
        std::mem::forget(doomed.play(async move { lock.acquire().await }));
        doomed.idle().await;
    });
    // Its tasks are dropped with the runtime, and so is the job that would withdraw the waiter.
    drop(doomed);
}

#[test]
fn whoever_waits_behind_a_dead_waiter_is_served_after_the_holders_ttl() {
    let world = World::new(2);
    let backend = MemoryBackend::with_clock(Arc::new(world.clock.clone()));
    die_holding_and_waiting(&backend, &world.clock);
    world.run(async {
        let lock = client(&backend, &world.clock, &world).mutex("key").unwrap();
        let guard = world.outcome(TTL * 2, async move { lock.acquire().await }).await;
        assert!(guard.is_some(), "it waits for ever behind the dead");
    });
}

#[test]
fn also_when_somebody_else_has_opened_a_session_since() {
    let world = World::new(3);
    let backend = MemoryBackend::with_clock(Arc::new(world.clock.clone()));
    die_holding_and_waiting(&backend, &world.clock);
    world.run(async {
        let lock = client(&backend, &world.clock, &world).mutex("key").unwrap();
        let waiting = world.play(async move { lock.acquire().await });
        world.pass(TTL + Duration::from_millis(1)).await;
        // Whoever opens a session clears away those that are over.
        let other = client(&backend, &world.clock, &world);
        world
            .outcome(TTL, {
                let other = other.clone();
                async move { other.open().await }
            })
            .await
            .unwrap()
            .unwrap();
        assert!(
            world.until(TTL, || waiting.is_over()).await,
            "it waits for ever for a session that nobody knows"
        );
    });
}
