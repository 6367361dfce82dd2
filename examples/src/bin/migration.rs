//! Migrations when a program starts: one replica migrates, the others wait, none of them without a bound.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fencepost::{AcquireOptions, LockClient, Ran, Registry, Wait};

static SCHEMA: AtomicU32 = AtomicU32::new(1);
const NEWEST: u32 = 2;

async fn start(replica: &str, client: &LockClient) -> Result<(), Box<dyn Error + Send + Sync>> {
    let options = AcquireOptions::new().wait(Wait::AtMost(Duration::from_secs(300)));
    match client.mutex("migrations")?.run_with(&options, |_held| migrate()).await? {
        Ran::Done(0) => println!("{replica}: nothing to do, starts"),
        Ran::Done(steps) => println!("{replica}: migrated by {steps}, starts"),
        // Better to fail, and to be started again, than to wait in silence.
        Ran::Busy(busy) => return Err(format!("no turn within five minutes: {busy}").into()),
        Ran::Lost(reason) => return Err(format!("migration stopped: {reason}").into()),
    }
    Ok(())
}

/// Looks under the lock: somebody else may have done it meanwhile.
async fn migrate() -> u32 {
    let steps = NEWEST - SCHEMA.load(Ordering::SeqCst);
    if steps > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        SCHEMA.store(NEWEST, Ordering::SeqCst);
    }
    steps
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let registry = Registry::new();
    let a = registry.connect("memory:shared?name=a").await?;
    let b = registry.connect("memory:shared?name=b").await?;
    tokio::try_join!(start("a", &a), start("b", &b))?;
    Ok(())
}
