//! How an application tests what it does when a lock is lost, without waiting: time moves when the test says so.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use fencepost::backend::VirtualClock;
use fencepost::memory::MemoryBackend;
use fencepost::{End, HoldState, LockClient, Reason};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = VirtualClock::new();
    let store = MemoryBackend::with_clock(Arc::new(clock.clone()));
    let builder = || LockClient::builder(store.clone()).clock(Arc::new(clock.clone()));
    let (one, other) = (builder().name("one").build()?, builder().name("other").build()?);

    let guard = one.mutex("k")?.acquire().await?;
    println!("one holds it for {:?} more", guard.time_left());

    // The machine sleeps for eleven seconds, under a TTL of ten.
    clock.suspend(Duration::from_secs(11));

    if guard.state() != HoldState::Ended(End::Lost(Reason::Expired)) {
        return Err("a lease that has run out must be seen at once".into());
    }
    println!("one knows that it lost it, before anything else ran");
    let next = other.mutex("k")?.acquire().await?;
    println!("other holds it, and its token is higher: {}", next.token() > guard.token());
    Ok(())
}
