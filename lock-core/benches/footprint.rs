//! What the engine costs in memory: allocations of one cycle, bytes of one held lock, messages of very many.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot run says so by panicking")]
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use lock_core::{
    Backend, Certainty, Claim, Claimed, Clock, Domain, EventSink, HolderInfo, LockClient, LockKey,
    MemoryBackend, Mode, Permit, SessionId, SessionOptions, Ticket, VirtualClock,
};
use tokio::runtime::{Builder, Runtime};

const HOLDS: usize = 100_000;
const TTL: Duration = Duration::from_secs(10);

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    allocations(&runtime);
    holds(&runtime);
}

/// Each figure is that of the second of two cycles: tables have grown by then.
fn allocations(runtime: &Runtime) {
    let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), TTL, HolderInfo::new(1));
    let key = LockKey::new("bench").unwrap();
    let opened = runtime.block_on(MemoryBackend::new().open(&options, EventSink::new(|_| {}))).unwrap();
    let bare = |ticket| {
        runtime.block_on(async {
            let claim = Claim::new(key.clone(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX);
            let Claimed::Granted { .. } = opened.session.claim(&claim).await.unwrap() else { panic!() };
            opened.session.release(&claim.reference(), Certainty::Settled).await.unwrap();
        });
    };
    let lock = runtime.block_on(async {
        let client = LockClient::builder(MemoryBackend::new()).build().unwrap();
        client.open().await.unwrap();
        client.mutex("bench").unwrap()
    });
    let engine = || {
        runtime.block_on(async { lock.acquire().await.unwrap().release().await.unwrap() });
    };
    bare(1);
    let bare = measure(|| bare(2));
    engine();
    let engine = measure(engine);
    println!(
        "allocations of one acquire + release: {} bare, {} through the engine",
        bare.count_total, engine.count_total
    );
}

fn holds(runtime: &Runtime) {
    let clock = VirtualClock::new();
    let memory = MemoryBackend::with_clock(Arc::new(clock.clone()));
    let mut guards = Vec::with_capacity(HOLDS);
    let held = measure(|| {
        runtime.block_on(async {
            let client =
                LockClient::builder(memory.clone()).clock(Arc::new(clock.clone())).ttl(TTL).build().unwrap();
            for number in 0..HOLDS {
                guards.push(client.mutex(format!("bench-{number}")).unwrap().acquire().await.unwrap());
            }
        });
    });
    let bytes = held.bytes_current / i64::try_from(HOLDS).unwrap();
    println!("memory of one held lock, with the memory store's own record of it: {bytes} bytes");

    let mut beats = 0;
    let end = clock.boot() + TTL;
    runtime.block_on(async {
        loop {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            match clock.next_timer().filter(|&at| at <= end) {
                Some(at) => clock.advance(at.since(clock.boot())),
                None => break,
            }
            beats += 1;
        }
    });
    assert!(guards.iter().all(|guard| guard.state().is_held()));
    println!("{HOLDS} holds: {beats} wake-ups in one TTL, each with one chunk of 1000 (1.5 N / chunk = 150)");
}
