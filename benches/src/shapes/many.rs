//! 64 tasks, each on a key of its own: the time of one cycle among them all.

use std::time::{Duration, Instant};

use criterion::Criterion;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::table::Table;
use crate::{Subject, client};

const TASKS: u64 = 64;

pub(crate) fn measure(
    criterion: &mut Criterion,
    runtime: &Runtime,
    subject: &dyn Subject,
    table: &mut Table,
) {
    let client = client(runtime, subject);
    let locks: Vec<_> = (0..TASKS).map(|task| client.mutex(format!("many-{task}")).unwrap()).collect();
    let mut group = criterion.benchmark_group(format!("{}-many", subject.name()));
    group.bench_function("floor", |bencher| {
        bencher.iter_custom(|cycles| {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                let mut floors = Vec::new();
                for _ in 0..TASKS {
                    floors.push(subject.floor().await);
                }
                let start = Instant::now();
                for mut floor in floors {
                    tasks.spawn(async move {
                        for _ in 0..cycles {
                            floor.cycle().await;
                        }
                    });
                }
                all(tasks).await;
                each(start)
            })
        });
    });
    group.bench_function("lock", |bencher| {
        bencher.iter_custom(|cycles| {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                let start = Instant::now();
                for lock in &locks {
                    let lock = lock.clone();
                    tasks.spawn(async move {
                        for _ in 0..cycles {
                            lock.acquire().await.unwrap().release().await.unwrap();
                        }
                    });
                }
                all(tasks).await;
                each(start)
            })
        });
    });
    group.finish();
    let id = |what: &str| format!("{}-many/{what}", subject.name());
    table.compare("64 tasks on own keys, a cycle", &id("lock"), &id("floor"));
}

async fn all(mut tasks: JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

fn each(start: Instant) -> Duration {
    start.elapsed() / u32::try_from(TASKS).unwrap()
}
