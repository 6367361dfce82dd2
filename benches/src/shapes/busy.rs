//! One attempt at a lock that another holds.

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
    let holder = client(runtime, subject);
    let held = runtime.block_on(holder.mutex("busy").unwrap().acquire()).unwrap();
    let lock = client(runtime, subject).mutex("busy").unwrap();
    let mut group = criterion.benchmark_group(format!("{}-busy", subject.name()));
    group.bench_function("floor", |bencher| {
        bencher.iter_custom(|tries| {
            let mut floor = runtime.block_on(subject.floor());
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..tries {
                    floor.busy().await;
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("lock", |bencher| {
        bencher.iter_custom(|tries| {
            let lock = lock.clone();
            let worker = runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..tries {
                    assert!(lock.try_acquire().await.unwrap().is_err());
                }
                start.elapsed()
            });
            runtime.block_on(worker).unwrap()
        });
    });
    group.finish();
    let id = |what: &str| format!("{}-busy/{what}", subject.name());
    table.compare("try on a busy key", &id("lock"), &id("floor"));
    runtime.block_on(held.release()).unwrap();
}
