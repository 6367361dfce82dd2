//! What a store's locks cost, shape by shape, in one run beside their floor: the least that any lock of that kind has to do.
//!
//! ```sh
//! cargo bench -p lock-benches --bench memory
//! cargo bench -p lock-benches --bench file
//! cargo bench -p lock-benches --bench redis     # starts a server of its own
//! cargo bench -p lock-benches --bench etcd      # the same
//! ```
//!
//! Each bench target is one store: a [`Subject`], and a call of [`run`]. At the end stands a table of ratios. Compare within
//! one run: machines differ, and one machine differs from minute to minute.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

mod shapes;
mod table;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use criterion::Criterion;
use lock_core::{Backend, LockClient};
use tokio::runtime::{Builder, Runtime};

use crate::table::Table;

/// A store that is measured.
#[async_trait]
pub trait Subject: Send + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// One more client of one and the same store.
    fn backend(&self) -> Arc<dyn Backend>;

    /// What any lock of this kind has to do, on a key of its own.
    async fn floor(&self) -> Box<dyn Floor>;

    /// How a child process reaches the store; `None` for one that lives in this process.
    fn address(&self) -> Option<String> {
        None
    }
}

/// The least that a lock of some kind has to do.
#[async_trait]
pub trait Floor: Send {
    /// Takes and gives back, uncontended.
    async fn cycle(&mut self);

    /// The same, and how long each half of it took; `None` where halves say nothing that the whole does not.
    async fn halves(&mut self) -> Option<[Duration; 2]> {
        None
    }

    /// Finds that another has it.
    async fn busy(&mut self);

    /// Asks a server something and hears the answer; false where there is no server.
    async fn round_trip(&mut self) -> bool {
        false
    }
}

/// Measures a store in every shape, and prints the table. `join` is how a child process reaches it.
pub fn run(subject: impl FnOnce() -> Box<dyn Subject>, join: impl FnOnce(&str) -> Arc<dyn Backend>) {
    if let Some(address) = shapes::hand_off::child() {
        return shapes::hand_off::serve(join(&address));
    }
    let subject = &*subject();
    let mut criterion =
        Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3)).configure_from_args();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut table = Table::new(subject.name());
    shapes::cycle::measure(&mut criterion, &runtime, subject, &mut table);
    shapes::busy::measure(&mut criterion, &runtime, subject, &mut table);
    shapes::many::measure(&mut criterion, &runtime, subject, &mut table);
    criterion.final_summary();
    shapes::halves::measure(&runtime, subject, &mut table);
    shapes::hot::measure(&runtime, subject, &mut table);
    shapes::hand_off::measure(&runtime, subject, &mut table);
    shapes::heartbeat::measure(&runtime, subject, &mut table);
    println!("\n{table}");
}

/// A client whose lease outlasts every measurement.
fn client(runtime: &Runtime, subject: &dyn Subject) -> LockClient {
    let _inside = runtime.enter();
    let client = LockClient::builder(subject.backend()).ttl(Duration::from_secs(3600)).build().unwrap();
    runtime.block_on(client.open()).unwrap();
    client
}
