//! Uncontended, each half of a cycle by itself: the floor and the lock in turns, so that both meet the same machine.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::table::{Table, rounded};
use crate::{Subject, client};

const ROUNDS: usize = 2_000;

pub(crate) fn measure(runtime: &Runtime, subject: &dyn Subject, table: &mut Table) {
    let lock = client(runtime, subject).mutex("halves").unwrap();
    let mut floor = runtime.block_on(subject.floor());
    let worker = runtime.spawn(async move {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let floors = floor.halves().await?;
            let start = Instant::now();
            let guard = lock.acquire().await.unwrap();
            let taken = Instant::now();
            guard.release().await.unwrap();
            rounds.push((floors, [taken - start, taken.elapsed()]));
        }
        Some(rounds)
    });
    let Some(rounds) = runtime.block_on(worker).unwrap() else { return };
    for (half, shape) in ["acquire, uncontended", "release, uncontended"].into_iter().enumerate() {
        let floors = sorted(rounds.iter().map(|(floors, _)| floors[half]));
        let locks = sorted(rounds.iter().map(|(_, locks)| locks[half]));
        let at = |times: &[Duration], permille: usize| times[(times.len() - 1) * permille / 1000];
        let text = format!(
            "p50 {:?}, p99 {:?}; floor p50 {:?}, p99 {:?}",
            rounded(at(&locks, 500)),
            rounded(at(&locks, 990)),
            rounded(at(&floors, 500)),
            rounded(at(&floors, 990))
        );
        let ratio = at(&locks, 500).as_secs_f64() / at(&floors, 500).as_secs_f64();
        table.note(shape, text, Some(ratio));
    }
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}
