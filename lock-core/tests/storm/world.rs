//! A world of one thread: a runtime that says when it is idle, a clock that is moved only then, and a network.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lock_core::{BootTime, Clock, VirtualClock};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::network::Network;

/// Everything in it happens in an order that its seed decides.
pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    pub(crate) net: Network,
    runtime: Runtime,
    /// Whom to wake when no task has anything to do.
    parked: Arc<Mutex<Option<Waker>>>,
    tasks: RefCell<Vec<Task>>,
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
        World {
            clock: VirtualClock::new(),
            net: Network::default(),
            runtime,
            parked,
            tasks: RefCell::default(),
        }
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

    /// Plays a task beside the scenario. Tasks take turns in the order in which they came, whatever woke them: several
    /// that wait for one channel of Tokio's are woken by chance.
    pub(crate) fn play<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Played<T> {
        let played = Played(Rc::default());
        let result = played.0.clone();
        let future = Box::pin(async move {
            let value = task.await;
            *result.borrow_mut() = Some(value);
        });
        let turn = Turn::new();
        self.tasks.borrow_mut().push(Task { future, turn });
        played
    }

    /// Gives each task whose turn it is one poll.
    fn take_turns(&self) -> bool {
        let mut any = false;
        let mut tasks = self.tasks.take();
        tasks.retain_mut(|task| {
            if !task.turn.is_woken() {
                return true;
            }
            any = true;
            let waker = task.turn.waker();
            task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
        });
        tasks.append(&mut self.tasks.borrow_mut());
        self.tasks.replace(tasks);
        any
    }

    /// How many tasks live on the runtime: the engines'.
    pub(crate) fn tasks_of_engines(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    /// Resolves when every task waits for something that only time or a message can bring.
    pub(crate) async fn idle(&self) {
        self.parked().await;
        while self.take_turns() {
            self.parked().await;
        }
    }

    /// Gives each task at most one poll, and then the engines what they want.
    pub(crate) async fn turn(&self) {
        self.take_turns();
        self.parked().await;
    }

    async fn parked(&self) {
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
    pub(crate) async fn outcome<T: 'static>(
        &self,
        within: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let played = self.play(future);
        self.until(within, || played.is_over()).await;
        played.result()
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    turn: Arc<Turn>,
}

/// Remembers that somebody was woken.
pub(crate) struct Turn(AtomicBool);

impl Turn {
    pub(crate) fn new() -> Arc<Turn> {
        Arc::new(Turn(AtomicBool::new(true)))
    }

    pub(crate) fn waker(self: &Arc<Turn>) -> Waker {
        Waker::from(self.clone())
    }

    /// Since the last time that one asked.
    pub(crate) fn is_woken(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What becomes of a task.
pub(crate) struct Played<T>(Rc<RefCell<Option<T>>>);

impl<T> Played<T> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn result(&self) -> Option<T> {
        self.0.take()
    }
}
