//! What an uncontended lock costs, beside the floor below which no lock of this kind can be.

#![allow(missing_docs, reason = "criterion writes the entry point")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails has to stop")]

use std::os::fd::AsFd;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Domain, EventSink, HolderInfo, LockKey, Mode, Permit, SessionId,
    SessionOptions, Ticket,
};
use lock_file::FileOptions;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{pread, pwrite};

/// The descriptor is kept; twice: try the lock, read, write, unlock.
fn floor(criterion: &mut Criterion) {
    let file = tempfile::tempfile().unwrap();
    let mut buffer = [0; 1024];
    pwrite(&file, &buffer, 0).unwrap();
    criterion.bench_function("floor", |bencher| {
        bencher.iter(|| {
            for _ in 0..2 {
                flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
                pread(&file, &mut buffer[..], 0).unwrap();
                pwrite(&file, &buffer[..100], 0).unwrap();
                flock(file.as_fd(), FlockOperation::Unlock).unwrap();
            }
        });
    });
}

/// More keys than a benchmark uses: each cycle is the first of its key.
const NEW: usize = 1_000_000;

/// A claim and its release, as the engine sends them.
fn cycle(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = runtime.block_on(async {
        let backend = lock_file::backend(dir.path().join("locks"), FileOptions::new()).unwrap();
        let info = HolderInfo::new(std::process::id());
        let options =
            SessionOptions::new(SessionId::random().unwrap(), Domain(0), Duration::from_secs(86_400), info);
        backend.open(&options, EventSink::new(|_| {})).await.unwrap().session
    });
    let mut ticket = 0;
    for (name, keys) in [
        ("cycle, one key", 1),
        ("cycle, 100 keys", 100),
        ("cycle, 1000 keys", 1000),
        ("cycle, new keys", NEW),
    ] {
        let keys: Vec<_> = (0..keys).map(|n| LockKey::new(format!("bench/{keys}/{n}")).unwrap()).collect();
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| {
                ticket += 1;
                let key = keys[ticket as usize % keys.len()].clone();
                let (session, ticket) = (session.clone(), Ticket(ticket));
                async move {
                    let reference = ClaimRef::new(key.clone(), ticket);
                    let claim = Claim::new(key, ticket, Mode::Exclusive, Permit::MUTEX);
                    let claimed = session.claim(&claim).await.unwrap();
                    assert!(matches!(claimed, Claimed::Granted { .. }));
                    session.release(&reference, Certainty::Settled).await.unwrap();
                }
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3));
    targets = floor, cycle
}
criterion_main!(benches);
