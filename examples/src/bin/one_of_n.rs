//! At most two imports at a time, over all processes: a semaphore.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static RUNNING: AtomicU32 = AtomicU32::new(0);
static MOST: AtomicU32 = AtomicU32::new(0);

async fn import() {
    let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
    MOST.fetch_max(running, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = fencepost::connect("memory:").await?;
    // Everybody who uses the key names the same number: another one is an error while it is in use.
    let imports = client.semaphore("imports", 2)?;

    let workers: Vec<_> = (1..=6)
        .map(|worker| {
            let imports = imports.clone();
            tokio::spawn(async move {
                let guard = imports.permits(1)?.acquire().await?;
                if guard.run(import()).await.is_ok() {
                    println!("worker {worker}: done");
                }
                guard.release().await
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    println!("at most {} ran at once", MOST.load(Ordering::SeqCst));
    Ok(())
}
