//! [`Scene`]: one hostile store whose weather a test makes, and its clients.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Guard, Lock, LockClient, RetryPolicy};

use crate::server::{Server, Shape};
use crate::weather::Weather;
use crate::world::World;

pub(crate) const TTL: Duration = Duration::from_secs(10);
pub(crate) const CALL: Duration = Duration::from_secs(2);

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) server: Server,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::of(Shape::HandsOver, 1000)
    }

    pub(crate) fn of(shape: Shape, verify_chunk: usize) -> Scene {
        let world = World::new(7);
        let server = Server::new(&world, shape, Weather::still(), verify_chunk, 7);
        Scene { world, server }
    }

    pub(crate) fn client(&self) -> LockClient {
        LockClient::builder(self.server.backend())
            .clock(Arc::new(self.world.clock.clone()))
            .ttl(TTL)
            .call_timeout(CALL)
            .retry(RetryPolicy::default())
            .runtime(self.world.handle().clone())
            .build()
            .unwrap()
    }

    pub(crate) fn mutex(&self, key: &str) -> Lock {
        self.client().mutex(key).unwrap()
    }

    /// The lock, which is free or soon will be.
    pub(crate) async fn hold(&self, lock: &Lock) -> Guard {
        let lock = lock.clone();
        self.world.outcome(TTL * 2, async move { lock.acquire().await }).await.unwrap().unwrap()
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.server.set_weather(weather);
    }
}
