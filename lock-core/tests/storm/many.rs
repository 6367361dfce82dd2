//! Very many holds, very many cycles: what is sent, and what is left.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Clock, ErrorKind, LockClient, MemoryBackend};

use crate::polls::poll_some;
use crate::scene::{CALL, Scene, TTL};
use crate::server::Shape;
use crate::weather::Weather;

const HOLDS: usize = 100_000;
const CHUNK: usize = 1_000;

#[test]
fn a_hundred_thousand_holds_are_each_verified_in_time_and_no_oftener() {
    let scene = Scene::of(Shape::HandsOver, CHUNK);
    let Scene { world, server } = &scene;
    world.run(async {
        let client = scene.client();
        let mut guards = Vec::new();
        for index in 0..HOLDS {
            let lock = client.mutex(format!("key-{index}")).unwrap();
            let won = lock.try_acquire();
            // Opening the session takes a turn of its runtime; no claim does.
            guards.push(won.await.unwrap().unwrap());
        }
        world.pass(TTL).await;
        server.watch_gaps();
        let before = server.sent("renew");
        world.pass(TTL * 3).await;
        let sent = server.sent("renew") - before;
        let chunks = HOLDS.div_ceil(CHUNK);
        assert!(sent <= 3 * (chunks * 3 / 2 + 3) + chunks / 2, "{sent} renewals in three TTLs");
        let gap = server.longest_gap();
        assert!(gap <= TTL * 2 / 3 + Duration::from_millis(100), "a claim was not verified for {gap:?}");
        assert_eq!(server.violations(), [""; 0]);
        assert!(guards.iter().all(|guard| matches!(guard.state(), lock_core::HoldState::Held { .. })));
        drop(guards);
        world.pass(CALL).await;
        assert_eq!(server.left(), [""; 0]);
    });
}

#[test]
fn nothing_is_left_after_ten_thousand_cycles() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let client = scene.client();
        client.open().await.unwrap();
        scene.weather(Weather::calm());
        let baseline = world.tasks_of_engines();
        let tasks: Vec<_> = (0..64_usize)
            .map(|task| {
                let (client, clock) = (client.clone(), world.clock.clone());
                world.play(async move {
                    for cycle in 0..160_usize {
                        let lock = client.mutex(format!("key-{}", task % 20)).unwrap();
                        match (task + cycle) % 5 {
                            0 => drop(lock.acquire().await.unwrap()),
                            1 => drop(lock.try_acquire().await.unwrap()),
                            2 => drop(poll_some(cycle % 4, lock.acquire()).await),
                            3 => drop(poll_some(1, lock.acquire().await.unwrap().release()).await),
                            _ => drop(lock.acquire().await.unwrap().release().await.unwrap()),
                        }
                        clock.sleep(Duration::from_micros(10)).await;
                    }
                })
            })
            .collect();
        assert!(world.until(TTL * 600, || tasks.iter().all(crate::world::Played::is_over)).await);
        world.pass(CALL).await;
        assert_eq!(server.left(), [""; 0]);
        assert_eq!(server.violations(), [""; 0]);
        assert_eq!(world.tasks_of_engines(), baseline);
        // The heartbeat's is the only one.
        let next = world.clock.next_timer().unwrap();
        assert!(next > world.now() && next <= world.now() + TTL / 3, "some other timer is left");
        let left = world.outcome(CALL, async move { client.shutdown(CALL).await }).await.unwrap();
        assert!(left.is_empty(), "the engine keeps {left:?}");
        world.pass(CALL).await;
        assert_eq!((world.tasks_of_engines(), world.clock.next_timer()), (0, None));
    });
}

#[test]
fn two_tickets_of_one_session_are_two_contenders_and_capacities_do_not_mix() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let client = scene.client();
        let guard = scene.hold(&client.mutex("key").unwrap()).await;
        assert!(client.mutex("key").unwrap().try_acquire().await.unwrap().is_err());
        let other = client.semaphore("key", 3).unwrap().permits(1).unwrap().acquire().await;
        assert!(matches!(other.unwrap_err().kind(), ErrorKind::CapacityMismatch { in_force: 1 }));
        guard.release().await.unwrap();
        // An idle key adopts the new one.
        let all = client.semaphore("key", 3).unwrap().permits(3).unwrap();
        assert!(all.try_acquire().await.unwrap().is_ok());
    });
}

/// The client is made on one runtime and used on another; guards are dropped on neither, and after both.
#[test]
fn two_runtimes_and_none() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (home, abroad) = (runtime(), runtime());
    let backend = MemoryBackend::new();
    let client = |runtime: &tokio::runtime::Runtime| {
        let backend: Arc<MemoryBackend> = backend.clone();
        LockClient::builder(backend)
            .ttl(Duration::from_millis(300))
            .runtime(runtime.handle().clone())
            .build()
            .unwrap()
    };
    let (one, other) = (client(&home), client(&abroad));
    let lock = one.mutex("key").unwrap();
    let guard = abroad.block_on(lock.acquire()).unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    // Released by the engine at home, without any help from here.
    let guard = abroad.block_on(lock.acquire()).unwrap();
    let (held, ending) = (guard.held(), guard.ending());
    let waiting = other.mutex("key").unwrap();
    drop(home);
    assert!(held.state().is_held(), "the lease goes on for as long as it was promised");
    let lost = abroad.block_on(ending);
    assert!(matches!(lost, lock_core::End::Lost(_)), "{lost:?}");
    drop(guard);
    drop(abroad.block_on(waiting.acquire()).unwrap());
    let late = abroad.block_on(lock.acquire());
    assert!(late.is_err(), "its runtime is gone");
    let guard = abroad.block_on(waiting.acquire()).unwrap();
    drop(abroad);
    drop((guard, one, other));
}
