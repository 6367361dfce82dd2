//! Uncontended: one task takes and gives back.

use std::time::Instant;

use criterion::Criterion;
use tokio::runtime::Runtime;

use crate::table::Table;
use crate::{Subject, client};

pub(crate) fn measure(
    criterion: &mut Criterion,
    runtime: &Runtime,
    subject: &dyn Subject,
    table: &mut Table,
) {
    let mut group = criterion.benchmark_group(format!("{}-cycle", subject.name()));
    group.bench_function("floor", |bencher| {
        bencher.iter_custom(|cycles| {
            let mut floor = runtime.block_on(subject.floor());
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..cycles {
                    floor.cycle().await;
                }
                start.elapsed()
            })
        });
    });
    let lock = client(runtime, subject).mutex("cycle").unwrap();
    group.bench_function("lock", |bencher| {
        bencher.iter_custom(|cycles| {
            let lock = lock.clone();
            let worker = runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..cycles {
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
                start.elapsed()
            });
            runtime.block_on(worker).unwrap()
        });
    });
    group.finish();
    let id = |what: &str| format!("{}-cycle/{what}", subject.name());
    table.compare("acquire + release, uncontended", &id("lock"), &id("floor"));
}
