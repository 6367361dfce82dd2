//! A leader that knows at once when it no longer is one.
//!
//! The role is not a flag that somebody sets and forgets: the work runs inside `held.run(…)`, which drops it before
//! the lease can end, and whatever asks "do I lead?" asks the hold itself.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use fencepost::{Lock, Registry};
use tokio::time::sleep;

/// Leads whenever it can, for as long as it can.
async fn campaign(name: &'static str, role: Lock) -> fencepost::Result<()> {
    loop {
        let guard = role.acquire().await?;
        println!("{name}: leads, term {}", guard.token());
        match guard.run(lead(name)).await {
            Ok(()) => {
                guard.release().await?;
                println!("{name}: done, resigned");
                return Ok(());
            }
            Err(lost) => println!("{name}: stopped, {lost}"),
        }
    }
}

/// What a leader does. It is dropped at the await point where it stands when the lock is lost.
async fn lead(name: &str) {
    for step in 1..=3 {
        sleep(Duration::from_millis(100)).await;
        println!("{name}: step {step} of 3");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::new();
    let a = registry.connect("memory:shared?name=a").await?;
    let b = registry.connect("memory:shared?name=b").await?;

    let first = tokio::spawn(campaign("a", a.mutex("leader")?));
    while a.inspect("leader").await?.holders.is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    let second = tokio::spawn(campaign("b", b.mutex("leader")?));
    sleep(Duration::from_millis(150)).await;

    // Somebody takes the role away from a; an expired lease would end it in the same way.
    b.force_release("leader", None).await?;
    second.await??;
    first.await??;
    Ok(())
}
