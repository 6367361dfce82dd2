//! What the engine costs on top of the bare backend call: one uncontended acquire and release, in one spawned task.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot run says so by panicking")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use lock_core::{
    Backend, Certainty, Claim, Claimed, Domain, EventSink, HolderInfo, LockClient, LockKey, MemoryBackend,
    Mode, Permit, SessionId, SessionOptions, Ticket,
};
use tokio::runtime::{Builder, Runtime};

fn overhead(criterion: &mut Criterion) {
    for (name, mut builder) in
        [("current_thread", Builder::new_current_thread()), ("two_workers", Builder::new_multi_thread())]
    {
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let mut group = criterion.benchmark_group(format!("overhead/{name}"));
        bare(&mut group, &runtime);
        engine(&mut group, &runtime);
        group.finish();
    }
}

/// The same two calls to the memory backend, without the engine.
fn bare(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime) {
    let opened = runtime.block_on(async {
        let ttl = Duration::from_secs(3600);
        let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), ttl, HolderInfo::new(1));
        MemoryBackend::new().open(&options, EventSink::new(|_| {})).await.unwrap()
    });
    let key = LockKey::new("bench").unwrap();
    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|cycles| {
            let (session, key) = (opened.session.clone(), key.clone());
            in_one_task(runtime, async move {
                let start = now();
                for cycle in 0..cycles {
                    let claim = Claim::new(key.clone(), Ticket(cycle), Mode::Exclusive, Permit::MUTEX);
                    let Claimed::Granted { token, .. } = session.claim(&claim).await.unwrap() else {
                        panic!()
                    };
                    black_box(token);
                    session.release(&claim.reference(), Certainty::Settled).await.unwrap();
                }
                start.elapsed()
            })
        });
    });
}

fn engine(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime) {
    let lock = runtime.block_on(async {
        let client = LockClient::builder(MemoryBackend::new()).build().unwrap();
        client.open().await.unwrap();
        client.mutex("bench").unwrap()
    });
    group.bench_function("engine", |bencher| {
        bencher.iter_custom(|cycles| {
            let lock = lock.clone();
            in_one_task(runtime, async move {
                let start = now();
                for _ in 0..cycles {
                    let guard = lock.acquire().await.unwrap();
                    black_box(guard.token());
                    guard.release().await.unwrap();
                }
                start.elapsed()
            })
        });
    });
}

fn in_one_task<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    runtime.block_on(runtime.spawn(work)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

criterion_group!(benches, overhead);
criterion_main!(benches);
