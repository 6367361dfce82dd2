//! [`Actor`]: a task that acquires, holds, gives back, loses patience and drops things, at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lock_core::{
    AcquireOptions, BootTime, Clock, ErrorKind, Guard, Lock, LockClient, LockKey, Ran, Result, VirtualClock,
    Wait,
};

use crate::history::{Entry, History};
use crate::polls::poll_some;
use crate::server::Server;

/// What actors play on.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) clock: VirtualClock,
    pub(crate) server: Server,
    pub(crate) history: History,
    pub(crate) keys: Vec<(LockKey, Kind)>,
    pub(crate) ttl: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) fixed_terms: bool,
    pub(crate) curtain: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Mutex,
    ReadersWriter,
    Semaphore(u32),
}

impl Kind {
    /// One of the key's locks, with its weight and capacity.
    pub(crate) fn lock(self, client: &LockClient, key: &LockKey, rng: &mut Rng) -> (Lock, (u32, u32)) {
        match self {
            Kind::Mutex => (client.mutex(key.clone()).unwrap(), (1, 1)),
            Kind::ReadersWriter => {
                let lock = client.rw_lock(key.clone()).unwrap();
                if rng.u8(0..3) > 0 {
                    (lock.read(), (1, u32::MAX))
                } else {
                    (lock.write(), (u32::MAX, u32::MAX))
                }
            }
            Kind::Semaphore(capacity) => {
                let weight = rng.u32(1..=capacity);
                let semaphore = client.semaphore(key.clone(), capacity).unwrap();
                (semaphore.permits(weight).unwrap(), (weight, capacity))
            }
        }
    }
}

impl Kind {
    /// The lock beside which nobody can have anything.
    pub(crate) fn whole(self, client: &LockClient, key: &LockKey) -> Lock {
        match self {
            Kind::Mutex => client.mutex(key.clone()).unwrap(),
            Kind::ReadersWriter => client.rw_lock(key.clone()).unwrap().write(),
            Kind::Semaphore(all) => client.semaphore(key.clone(), all).unwrap().permits(all).unwrap(),
        }
    }
}

pub(crate) struct Actor {
    stage: Stage,
    client: LockClient,
    rng: Rng,
}

impl Actor {
    pub(crate) fn new(stage: &Stage, client: &LockClient, seed: u64) -> Actor {
        Actor { stage: stage.clone(), client: client.clone(), rng: Rng::with_seed(seed) }
    }

    pub(crate) async fn play(mut self) {
        for _ in 0..self.rng.u32(4..12) {
            if self.stage.curtain.load(Ordering::Relaxed) {
                return;
            }
            let pause = self.some(self.stage.ttl / 4);
            self.stage.clock.sleep(pause).await;
            match self.rng.u8(0..12) {
                0 | 1 => self.try_once().await,
                2 => self.run().await,
                3 if self.stage.fixed_terms => self.detach().await,
                4 => self.abandon().await,
                _ => self.acquire().await,
            }
        }
    }

    async fn acquire(&mut self) {
        let (lock, weight) = self.lock();
        let (options, at_least) = self.options();
        let patience = match options.wait {
            // One attempt: opening the session is one call, the claim another.
            Some(Wait::AtMost(Duration::ZERO)) => Some(self.stage.call_timeout * 2),
            Some(Wait::AtMost(time)) => Some(time),
            _ => None,
        };
        let invoked = self.now();
        let outcome = lock.acquire_with(&options).await;
        if let Some(patience) = patience {
            self.was_in_time("acquire", invoked, patience);
            let waits = options.wait != Some(Wait::AtMost(Duration::ZERO));
            let over = outcome.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::WaitTimedOut(_)));
            if waits && over && self.now().since(invoked) < patience {
                self.stage.server.violation(&format!("patience of {patience:?} was over too early"));
            }
        }
        if let Some(guard) = self.judge(outcome) {
            let entry = self.stage.history.won(&guard, weight, invoked, at_least);
            self.hold(guard, entry).await;
        }
    }

    async fn try_once(&mut self) {
        let (lock, weight) = self.lock();
        let invoked = self.now();
        let outcome = lock.try_acquire().await;
        self.was_in_time("try_acquire", invoked, self.stage.call_timeout * 2);
        if let Some(Ok(guard)) = self.judge(outcome) {
            let entry = self.stage.history.won(&guard, weight, invoked, Duration::ZERO);
            self.hold(guard, entry).await;
        }
    }

    /// Loses interest, at an instant or after some polls.
    async fn abandon(&mut self) {
        let (lock, weight) = self.lock();
        let (options, at_least) = self.options();
        let invoked = self.now();
        let won = if self.rng.bool() {
            poll_some(self.rng.usize(0..4), lock.acquire_with(&options)).await
        } else {
            let time = self.some(self.stage.ttl);
            tokio::select! {
                biased;
                won = lock.acquire_with(&options) => Some(won),
                () = self.stage.clock.sleep(time) => None,
            }
        };
        if let Some(guard) = won.and_then(|outcome| self.judge(outcome)) {
            let entry = self.stage.history.won(&guard, weight, invoked, at_least);
            self.hold(guard, entry).await;
        }
    }

    async fn run(&mut self) {
        let (lock, _) = self.lock();
        let mut options = if self.rng.bool() { AcquireOptions::new() } else { self.options().0 };
        options.hold_at_least = None;
        let (time, stage) = (self.some(self.stage.ttl), self.stage.clone());
        let invoked = self.now();
        let ran = lock
            .run_with(&options, |held| async move {
                let mut sleep = stage.clock.sleep(time);
                std::future::poll_fn(move |context| {
                    if !held.state().is_held() {
                        let late = format!("{}: work was polled after its lock was lost", held.key());
                        stage.server.violation(&late);
                    }
                    sleep.as_mut().poll(context)
                })
                .await;
            })
            .await;
        if let Some(Ran::Done(())) = self.judge(ran) {
            let least = self.now().since(invoked);
            if least < time {
                self.stage.server.violation(&format!("work of {time:?} was done within {least:?}"));
            }
        }
    }

    async fn detach(&mut self) {
        let keys: Vec<_> = self.stage.keys.iter().filter(|(_, kind)| matches!(kind, Kind::Mutex)).collect();
        let Some((key, _)) = keys.first() else { return };
        let key = key.clone();
        let time = self.some(self.stage.ttl * 2) + Duration::from_millis(1);
        let options = AcquireOptions::new().wait(Wait::AtMost(self.some(self.stage.ttl * 2)));
        let invoked = self.now();
        let lock = self.client.mutex(key.clone()).unwrap();
        let Some(detached) = self.judge(lock.acquire_detached(time, &options).await) else { return };
        let entry = self.stage.history.detached(&key, detached.token, invoked, time);
        if self.rng.bool() {
            let pause = self.some(time);
            self.stage.clock.sleep(pause).await;
            self.stage.history.gives_back(entry);
            let _ = self.client.release_detached(key, detached.token).await;
        }
    }

    async fn hold(&mut self, guard: Guard, entry: Entry) {
        let time = self.some(self.stage.ttl * 3 / 2);
        tokio::select! {
            biased;
            _ = guard.lost() => {}
            () = self.stage.clock.sleep(time) => {}
        }
        self.stage.history.gives_back(entry);
        match self.rng.u8(0..8) {
            0 | 1 => drop(guard),
            2 | 3 => drop(poll_some(self.rng.usize(0..3), guard.release()).await),
            _ => {
                let began = self.now();
                let outcome = guard.release().await;
                self.was_in_time("release", began, self.stage.call_timeout);
                self.judge(outcome);
            }
        }
    }

    fn lock(&mut self) -> (Lock, (u32, u32)) {
        let (key, kind) = &self.stage.keys[self.rng.usize(0..self.stage.keys.len())];
        kind.lock(&self.client, key, &mut self.rng)
    }

    fn options(&mut self) -> (AcquireOptions, Duration) {
        let (mut options, mut at_least) = (AcquireOptions::new(), Duration::ZERO);
        if self.rng.bool() {
            options = options.wait(Wait::AtMost(self.some(self.stage.ttl * 3)));
        }
        if self.rng.u8(0..4) == 0 {
            options = options.hold_at_most(self.some(self.stage.ttl) + Duration::from_millis(1));
        }
        if self.stage.fixed_terms && self.rng.u8(0..5) == 0 {
            at_least = self.some(self.stage.ttl * 2);
            options = options.hold_at_least(at_least);
        }
        (options, at_least)
    }

    /// Nothing that a store does makes an engine break its own contract.
    fn judge<T>(&self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let expected = matches!(
                    error.kind(),
                    ErrorKind::WaitTimedOut(_)
                        | ErrorKind::SessionLost(_)
                        | ErrorKind::Unavailable
                        | ErrorKind::TimedOut
                        | ErrorKind::Withdrawn
                        | ErrorKind::Protocol
                        | ErrorKind::ShutDown
                );
                if !expected {
                    self.stage.server.violation(&format!("an error that cannot be: {error}"));
                }
                None
            }
        }
    }

    fn was_in_time(&self, what: &str, invoked: BootTime, limit: Duration) {
        let took = self.now().since(invoked);
        if took > limit + Duration::from_millis(100) {
            self.stage.server.violation(&format!("{what} took {took:?}, and had {limit:?}"));
        }
    }

    fn now(&self) -> BootTime {
        self.stage.clock.boot()
    }

    fn some(&mut self, most: Duration) -> Duration {
        if self.rng.u8(0..6) == 0 { Duration::ZERO } else { most.mul_f64(self.rng.f64()) }
    }
}
