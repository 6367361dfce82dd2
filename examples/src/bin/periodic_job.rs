//! A job that every replica starts on the same schedule, and that one of them runs.
//!
//! The job is short and the clocks of the replicas differ. `hold_at_least` keeps the key taken for the rest of the
//! interval, so that a replica whose clock is behind does not run the job a second time.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use fencepost::{AcquireOptions, Fence, Held, LockClient, Ran, Registry, Stale};

/// Milliseconds here stand for hours.
const INTERVAL: Duration = Duration::from_millis(700);
/// Somewhat less than the interval: by as much as the clocks of the replicas may differ.
const TAKEN_FOR: Duration = Duration::from_millis(600);

/// The table that the job writes: it keeps a fence beside the rows.
#[derive(Default)]
struct Reports {
    fence: Fence,
    rows: u32,
}

static REPORTS: LazyLock<Mutex<Reports>> = LazyLock::new(Mutex::default);

async fn tick(replica: &str, client: &LockClient) -> fencepost::Result<()> {
    let options = AcquireOptions::new().hold_at_least(TAKEN_FOR);
    let job = client.mutex("nightly-report")?;
    match job.run_with(&options, |held| async move { write_report(&held) }).await? {
        Ran::Done(Ok(rows)) => println!("{replica}: wrote the report, {rows} so far"),
        Ran::Done(Err(stale)) => println!("{replica}: refused: {stale}"),
        Ran::Busy(busy) => println!("{replica}: skipped, {busy}"),
        Ran::Lost(reason) => println!("{replica}: stopped, {reason}"),
    }
    Ok(())
}

/// The write carries the token. In a database the check and the write are one transaction.
fn write_report(held: &Held) -> Result<u32, Stale> {
    let mut reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    reports.fence.admit(held.mode(), held.token())?;
    reports.rows += 1;
    Ok(reports.rows)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::new();
    let a = registry.connect("memory:shared?name=a").await?;
    let b = registry.connect("memory:shared?name=b").await?;

    tick("a", &a).await?;
    tick("b", &b).await?; // Later, when the job of a has ended long ago: still taken.
    tokio::time::sleep(INTERVAL).await;
    tick("b", &b).await?; // The next interval.
    Ok(())
}
