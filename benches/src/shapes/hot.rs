//! One hot key and 16 tasks without pause: throughput, waits, and how evenly the lock was shared.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::table::{Table, rounded};
use crate::{Subject, client};

const TASKS: usize = 16;
const TIME: Duration = Duration::from_secs(3);

pub(crate) fn measure(runtime: &Runtime, subject: &dyn Subject, table: &mut Table) {
    // Four clients, as of four processes.
    let clients: Vec<_> = (0..4).map(|_| client(runtime, subject)).collect();
    let waits: Vec<Vec<Duration>> = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let end = Instant::now() + TIME;
        for task in 0..TASKS {
            let lock = clients[task % clients.len()].mutex("hot").unwrap();
            tasks.spawn(async move {
                let mut waits = Vec::new();
                while Instant::now() < end {
                    let asked = Instant::now();
                    let guard = lock.acquire().await.unwrap();
                    waits.push(asked.elapsed());
                    guard.release().await.unwrap();
                }
                waits
            });
        }
        let mut all = Vec::new();
        while let Some(waits) = tasks.join_next().await {
            all.push(waits.unwrap());
        }
        all
    });
    let shares: Vec<_> = waits.iter().map(|waits| waits.len() as f64).collect();
    let mut all: Vec<_> = waits.into_iter().flatten().collect();
    all.sort_unstable();
    let at = |permille: usize| rounded(all[(all.len() - 1) * permille / 1000]);
    table.note(
        "one hot key, 16 tasks",
        format!(
            "{:.0} cycles/s; wait p50 {:?}, p99 {:?}, worst {:?}; Jain {:.3}",
            all.len() as f64 / TIME.as_secs_f64(),
            at(500),
            at(990),
            at(1000),
            jain(&shares)
        ),
        None,
    );
}

/// Jain's index: 1 where everybody got the same, 1/n where one got all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}
