//! A world of one thread: a runtime that says when it is idle, a clock that is moved only then, and a network.

use std::future::Future;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use lock_core::{BootTime, Clock, VirtualClock};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::network::Network;

/// Everything in it happens in an order that its seed decides.
pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) net: Network,
    runtime: Runtime,
    /// Whom to wake when no task has anything to do.
    parked: Arc<Mutex<Option<Waker>>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        // The engine's jitter draws from the thread's generator.
        fastrand::seed(seed);
        let parked: Arc<Mutex<Option<Waker>>> = Arc::default();
        let told = parked.clone();
        let runtime = Builder::new_current_thread()
            .on_thread_park(move || {
                let waker = told.lock().unwrap_or_else(PoisonError::into_inner).take();
                waker.into_iter().for_each(Waker::wake);
            })
            .build()
            .unwrap();
        World { clock: VirtualClock::new(), net: Network::default(), runtime, parked }
    }

    pub(crate) fn run<T>(&self, scenario: impl Future<Output = T>) -> T {
        self.runtime.block_on(scenario)
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    pub(crate) fn now(&self) -> BootTime {
        self.clock.boot()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// How many tasks live, besides the scenario itself.
    pub(crate) fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    /// Resolves when every task waits for something that only time or a message can bring.
    pub(crate) async fn idle(&self) {
        let mut asked = false;
        poll_fn(|context| {
            let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked && parked.is_none() {
                return Poll::Ready(());
            }
            asked = true;
            *parked = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Moves time to the next thing that happens, but not beyond `limit`. `false` when that is reached.
    pub(crate) async fn step(&self, limit: BootTime) -> bool {
        self.idle().await;
        if self.net.deliver(self.now()) {
            return true;
        }
        let next = self.clock.next_timer().into_iter().chain(self.net.next()).min();
        let next = next.unwrap_or(limit).min(limit);
        if next >= limit && self.now() >= limit {
            return false;
        }
        self.clock.advance(next.since(self.now()));
        if fastrand::bool() {
            // Sometimes the messages of an instant come before its timers' tasks, sometimes after.
            self.net.deliver(self.now());
        }
        true
    }

    /// Lets this much time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        let limit = self.now() + time;
        while self.step(limit).await {}
        self.idle().await;
    }

    /// Lets time pass until something is so; `false` when it was not so within this time.
    pub(crate) async fn until(&self, within: Duration, mut so: impl FnMut() -> bool) -> bool {
        let limit = self.now() + within;
        self.idle().await;
        while !so() {
            if !self.step(limit).await {
                self.idle().await;
                return so();
            }
            self.idle().await;
        }
        true
    }

    /// A future's result, if it comes within this time.
    pub(crate) async fn outcome<T: Send + 'static>(
        &self,
        within: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = self.spawn(future);
        if self.until(within, || task.is_finished()).await { task.await.ok() } else { None }
    }
}
