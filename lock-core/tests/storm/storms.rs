//! Random histories in any weather, then the calm after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lock_core::{AcquireOptions, Error, LockClient, LockKey, RetryPolicy, Wait};

use crate::actors::{Actor, Kind, Stage};
use crate::history::History;
use crate::server::{Server, Shape};
use crate::weather::{Weather, chance};
use crate::world::{Played, World};

const SEEDS: u64 = 400;

#[test]
fn the_store_hands_over() {
    for seed in seeds() {
        play(seed, Shape::HandsOver);
    }
}

#[test]
fn the_clients_watch() {
    for seed in seeds() {
        let wanted = seed % 2 == 0;
        play(seed, Shape::Watched { wanted });
    }
}

/// `STORM_SEED` replays one, `STORM_SEEDS` says how many there are.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("STORM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STORM_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn a_seed_is_a_history() {
    for seed in 0..5 {
        let again = || play(seed, Shape::HandsOver);
        assert_eq!(again(), again(), "seed {seed} played out in two ways");
    }
}

/// Plays one history, and says how it went.
fn play(seed: u64, shape: Shape) -> (usize, u64) {
    let world = World::new(seed);
    let mut storm = Storm::new(seed, &world, shape);
    world.run(async {
        storm.blow(&world).await;
        storm.recover(&world).await;
        storm.end(&world).await;
    });
    storm.must_not_have(&storm.stage.server.violations());
    storm.must_not_have(&storm.stage.history.faults());
    (storm.stage.history.len(), world.now().as_nanos())
}

struct Storm {
    seed: u64,
    rng: Rng,
    stage: Stage,
    clients: Vec<LockClient>,
}

impl Storm {
    fn new(seed: u64, world: &World, shape: Shape) -> Storm {
        let mut rng = Rng::with_seed(seed);
        let ttl = Duration::from_millis([1_000, 3_000, 10_000][rng.usize(0..3)]);
        let call_timeout = Duration::from_millis([300, 1_000, 5_000][rng.usize(0..3)]);
        let mut weather = Weather::any(&mut rng, ttl);
        if shape == (Shape::Watched { wanted: false }) {
            // Nothing would ever tell such a store's client of a grant that nobody owns.
            weather.orphan = 0;
        }
        let verify_chunk = [1, 2, 1000][rng.usize(0..3)];
        let server = Server::new(world, shape, weather, verify_chunk, rng.u64(..));
        let kinds = [Kind::Mutex, Kind::ReadersWriter, Kind::Semaphore(3)];
        let keys = (0..rng.usize(1..=3)).map(|index| {
            let kind = if index == 0 { Kind::Mutex } else { kinds[rng.usize(0..3)] };
            (LockKey::new(format!("key-{index}")).unwrap(), kind)
        });
        let stage = Stage {
            clock: world.clock.clone(),
            keys: keys.collect(),
            history: History::new(&world.clock, &server),
            server,
            ttl,
            call_timeout,
            fixed_terms: shape == Shape::HandsOver,
            curtain: Arc::new(AtomicBool::new(false)),
        };
        let clients = (0..rng.usize(1..=4)).map(|_| stage.client(world)).collect();
        Storm { seed, rng, stage, clients }
    }

    async fn blow(&mut self, world: &World) {
        let mut actors = Vec::new();
        for client in &self.clients {
            for _ in 0..self.rng.usize(1..=3) {
                actors.push(world.play(Actor::new(&self.stage, client, self.rng.u64(..)).play()));
            }
        }
        let chaos = if self.rng.bool() { 0 } else { self.rng.u32(0..20) };
        let keys: Vec<_> = self.stage.keys.iter().map(|(key, _)| key.clone()).collect();
        let storm = world.now() + self.stage.ttl * self.rng.u32(4..12);
        while world.step(storm).await {
            world.idle().await;
            self.stage.history.observe();
            if chance(&mut self.rng, chaos) {
                self.stage.server.misbehave(&keys);
            }
            if actors.iter().all(Played::is_over) {
                break;
            }
        }
        // It is over: whoever is on stage ends what it has begun.
        self.stage.server.set_weather(Weather::calm());
        self.stage.curtain.store(true, Ordering::Relaxed);
        let limit = world.now() + self.patience() * 6;
        while !actors.iter().all(Played::is_over) {
            world.idle().await;
            self.stage.history.observe();
            let goes_on = world.step(limit).await;
            assert!(goes_on, "seed {}: an actor hangs; left: {:#?}", self.seed, self.stage.server.left());
        }
    }

    /// Every key can be had again by everybody, and then nobody has anything.
    async fn recover(&mut self, world: &World) {
        for (key, kind) in &self.stage.keys {
            for client in &self.clients {
                let lock = kind.whole(client, key);
                let options = AcquireOptions::new().wait(Wait::AtMost(self.patience()));
                let won = world.outcome(self.patience() * 2, async move {
                    // What had gone wrong before may still have to be noticed: a session that the store ended, a call
                    // that nobody answers.
                    let mut guard = lock.acquire_with(&options).await;
                    for _ in 0..2 {
                        if guard.as_ref().is_err_and(Error::is_retryable) {
                            guard = lock.acquire_with(&options).await;
                        }
                    }
                    guard?.release().await
                });
                match won.await {
                    Some(Ok(_)) => {}
                    other => panic!(
                        "seed {}: {key} is lost for ever: {other:?}; left: {:#?}",
                        self.seed,
                        self.stage.server.left()
                    ),
                }
            }
        }
        let limit = world.now() + self.patience();
        while world.step(limit).await {
            world.idle().await;
            self.stage.history.observe();
        }
        self.must_not_have(&self.stage.server.left());
        assert!(self.stage.history.is_over(), "seed {}: a guard outlived its drop", self.seed);
    }

    async fn end(&mut self, world: &World) {
        for client in self.clients.drain(..) {
            let within = Duration::from_secs(5);
            let left = world.outcome(within, async move { client.shutdown(within).await }).await;
            assert_eq!(left.as_deref(), Some(&[][..]), "seed {}: the engine keeps claims", self.seed);
        }
        world.pass(self.stage.longest_ttl() * 4).await;
        assert_eq!(world.tasks_of_engines(), 0, "seed {}: tasks of the engine go on", self.seed);
        assert_eq!(world.clock.next_timer(), None, "seed {}: a timer is left", self.seed);
    }

    /// Until everything that can be in the way has ended: leases, fixed terms, calls that hang, pauses.
    fn patience(&self) -> Duration {
        self.stage.longest_ttl() * 6 + self.stage.call_timeout * 2 + Duration::from_secs(5)
    }

    fn must_not_have(&self, faults: &[String]) {
        assert!(faults.is_empty(), "STORM_SEED={}: {faults:#?}", self.seed);
    }
}

impl Stage {
    fn client(&self, world: &World) -> LockClient {
        let retry = RetryPolicy::default().give_up_after(self.ttl * 2).max(self.ttl / 4);
        LockClient::builder(self.server.backend())
            .clock(Arc::new(world.clock.clone()))
            .ttl(self.ttl)
            .call_timeout(self.call_timeout)
            .retry(retry)
            .runtime(world.handle().clone())
            .build()
            .unwrap()
    }

    fn longest_ttl(&self) -> Duration {
        self.server.longest_ttl().max(self.ttl)
    }
}
