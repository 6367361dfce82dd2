//! What lockers are made to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fencepost_peers::cpu;

use crate::figures::{Course, Cycles, HandOffs, Spread, jain, mean, micros};
use crate::lockers::{Bare, Count, Locker};

/// For how long a waiter is looked for in the store; one that waits elsewhere is not to be found there.
const LOOKED_FOR: Duration = Duration::from_millis(5);

/// Each of them does one cycle after the other, in a task of its own, until the time is over.
pub async fn cycles<L: Locker>(lockers: Vec<L>, time: Duration, server: u32) -> Cycles {
    let (client_before, server_before) = (cpu(std::process::id()), cpu(server));
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
        server: (cpu(server) - server_before) / all * 1e6,
    }
}

/// From the call of a release to the moment at which the waiter knows that it holds. `pause` is how long the waiter's place is
/// seen in the store before that.
pub async fn hand_offs<L: Locker>(
    [mut holder, waiter]: [L; 2],
    count: Count,
    mut floor: Bare,
    samples: usize,
    pause: fn(usize) -> Duration,
) -> HandOffs {
    let all = async move {
        let mut all = HandOffs::default();
        for sample in 0..samples {
            let held = holder.take().await;
            let keys = count.keys().await;
            let mut waiter = waiter.clone();
            let waiting = tokio::spawn(async move {
                let held = waiter.take().await;
                let granted = Instant::now();
                waiter.give_back(held).await;
                granted
            });
            let asked = Instant::now();
            while count.keys().await <= keys && asked.elapsed() < LOOKED_FOR {
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
            floor.put().await;
            all.puts.push(micros(asked.elapsed()));
        }
        all
    };
    tokio::spawn(all).await.expect("no panic")
}

/// The same while somebody writes one key after the other that has nothing to do with it.
pub async fn among_writers<T>(mut writer: Bare, measured: impl Future<Output = T>) -> T {
    let writing = tokio::spawn(async move {
        loop {
            writer.put().await;
        }
    });
    let all = measured.await;
    writing.abort();
    all
}

/// So many cycles on the same keys, one task a key.
pub async fn course<L: Locker>(lockers: Vec<L>, floors: Vec<Bare>, cycles: usize) -> Course {
    let keys = lockers.len();
    // Sessions are open and ways are known before it begins.
    counted(lockers.clone(), keys * 10).await;
    let floor_before = mean(&counted(floors.clone(), EDGE).await);
    let times = counted(lockers, cycles).await;
    let floor_after = mean(&counted(floors, EDGE).await);
    let edge = EDGE.min(times.len() / 2);
    let (first, last) = (mean(&times[..edge]), mean(&times[times.len() - edge..]));
    Course { cycles, keys, first, last, floor_before, floor_after }
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
