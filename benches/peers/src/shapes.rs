//! What lockers are made to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lock_core::{Guard, Lock};

use crate::figures::{Course, Cycles, HandOffs, Spread, jain, mean, micros};
use crate::{cpu, cpu_of_all};

/// For how long a waiter is looked for in the store; one that waits elsewhere is not to be found there.
const LOOKED_FOR: Duration = Duration::from_millis(5);

/// One task's lock. A call that fails ends the comparison.
pub trait Locker: Clone + Send + 'static {
    type Held: Send + 'static;

    fn take(&mut self) -> impl Future<Output = Self::Held> + Send;
    fn give_back(&mut self, held: Self::Held) -> impl Future<Output = ()> + Send;
}

impl Locker for Lock {
    type Held = Guard;

    async fn take(&mut self) -> Guard {
        self.acquire().await.expect("a grant")
    }

    async fn give_back(&mut self, held: Guard) {
        held.release().await.expect("a release");
    }
}

/// What else is asked of the store around a hand-off.
pub trait Beside: Clone + Send + 'static {
    /// Rises when a waiter has taken its place.
    fn places(&mut self) -> impl Future<Output = i64> + Send;

    /// A write that has nothing to do with locks.
    fn write(&mut self) -> impl Future<Output = ()> + Send;
}

/// Each of them does one cycle after the other, in a task of its own, until the time is over.
pub async fn cycles<L: Locker>(lockers: Vec<L>, time: Duration, server: u32) -> Cycles {
    let (client_before, server_before) = (cpu(std::process::id()), cpu_of_all(server));
    let start = Instant::now();
    let tasks: Vec<_> = lockers
        .into_iter()
        .map(|mut locker| {
            tokio::spawn(async move {
                let (mut takes, mut gives) = (Vec::new(), Vec::new());
                while start.elapsed() < time {
                    let asked = Instant::now();
                    let held = locker.take().await;
                    let taken = Instant::now();
                    locker.give_back(held).await;
                    takes.push(micros(taken - asked));
                    gives.push(micros(taken.elapsed()));
                }
                (takes, gives)
            })
        })
        .collect();
    let (mut takes, mut gives, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for task in tasks {
        let (taken, given) = task.await.expect("no panic");
        shares.push(taken.len() as f64);
        takes.extend(taken);
        gives.extend(given);
    }
    let (time, all) = (start.elapsed(), takes.len() as f64);
    Cycles {
        rate: all / time.as_secs_f64(),
        take: Spread::of(&takes),
        give_back: Spread::of(&gives),
        jain: jain(&shares),
        client: (cpu(std::process::id()) - client_before) / all * 1e6,
        server: (cpu_of_all(server) - server_before) / all * 1e6,
    }
}

/// From the call of a release to the moment at which the waiter knows that it holds. `pause` is how long the waiter's place is
/// seen in the store before that.
pub async fn hand_offs<L: Locker>(
    [mut holder, waiter]: [L; 2],
    mut beside: impl Beside,
    samples: usize,
    pause: fn(usize) -> Duration,
) -> HandOffs {
    let all = async move {
        let mut all = HandOffs::default();
        for sample in 0..samples {
            let held = holder.take().await;
            let places = beside.places().await;
            let mut waiter = waiter.clone();
            let waiting = tokio::spawn(async move {
                let held = waiter.take().await;
                let granted = Instant::now();
                waiter.give_back(held).await;
                granted
            });
            let asked = Instant::now();
            while beside.places().await <= places && asked.elapsed() < LOOKED_FOR {
                tokio::task::yield_now().await;
            }
            sleep(pause(sample)).await;
            let released = Instant::now();
            holder.give_back(held).await;
            let granted = waiting.await.expect("no panic");
            all.times.push(micros(granted.saturating_duration_since(released)));
            // After a rest, as before the release: a machine that has rested answers later.
            sleep(pause(sample)).await;
            let asked = Instant::now();
            beside.write().await;
            all.writes.push(micros(asked.elapsed()));
        }
        all
    };
    tokio::spawn(all).await.expect("no panic")
}

/// The same while somebody writes without pause what has nothing to do with it.
pub async fn among_writers<T>(mut writer: impl Beside, measured: impl Future<Output = T>) -> T {
    let writing = tokio::spawn(async move {
        loop {
            writer.write().await;
        }
    });
    let all = measured.await;
    writing.abort();
    all
}

/// So many cycles on the same keys, of which each task has its share.
pub async fn course<L: Locker>(
    lockers: Vec<L>,
    keys: usize,
    floors: Vec<impl Locker>,
    cycles: usize,
) -> Course {
    let tasks = lockers.len();
    // Sessions are open and ways are known before it begins.
    counted(lockers.clone(), keys + tasks * 10).await;
    let floor_before = mean(&counted(floors.clone(), EDGE).await);
    let times = counted(lockers, cycles).await;
    let floor_after = mean(&counted(floors, EDGE).await);
    let edge = EDGE.min(times.len() / 2);
    let (first, last) = (mean(&times[..edge]), mean(&times[times.len() - edge..]));
    Course { cycles, tasks, keys, first, last, floor_before, floor_after }
}

/// How many of the first and of the last are looked at.
const EDGE: usize = 1_000;

/// What each cycle took, in the order of their beginnings.
async fn counted<L: Locker>(lockers: Vec<L>, cycles: usize) -> Vec<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = lockers
        .into_iter()
        .map(|mut locker| {
            let next = next.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cycles {
                        return times;
                    }
                    let asked = Instant::now();
                    let held = locker.take().await;
                    locker.give_back(held).await;
                    times.push((number, micros(asked.elapsed())));
                }
            })
        })
        .collect();
    let mut all = Vec::with_capacity(cycles);
    for task in tasks {
        all.extend(task.await.expect("no panic"));
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, time)| time).collect()
}

/// Not even a turn of the timer where there is nothing to wait for.
async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
