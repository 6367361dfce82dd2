//! Many ask for a value that has run out, one fetches it; and when that one hangs, the next one does.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use fencepost::{AcquireOptions, Lock, Ran, Wait};

#[derive(Default)]
struct Cache {
    value: RwLock<Option<String>>,
    hung: AtomicBool,
}

impl Cache {
    fn value(&self) -> Option<String> {
        self.value.read().ok()?.clone()
    }

    async fn fresh(&self, caller: u32, lock: &Lock) -> fencepost::Result<Option<String>> {
        // Renewal keeps a hold alive for as long as the process lives: a call that hangs needs a bound of its own.
        let options = AcquireOptions::new()
            .wait(Wait::AtMost(Duration::from_secs(5)))
            .hold_at_most(Duration::from_millis(300));
        let ran = lock.run_with(&options, |_held| self.refresh(caller)).await?;
        if let Ran::Lost(reason) = ran {
            println!("caller {caller}: gave up, {reason}");
        }
        Ok(self.value())
    }

    /// Looks again under the lock: whoever came before may have fetched it.
    async fn refresh(&self, caller: u32) {
        if self.value().is_some() {
            return;
        }
        println!("caller {caller}: fetches");
        if !self.hung.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await; // The first request never comes back.
        }
        if let Ok(mut value) = self.value.write() {
            *value = Some("fresh".to_owned());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = fencepost::connect("memory:").await?;
    let (cache, lock) = (Arc::new(Cache::default()), client.mutex("cache/prices")?);
    let callers: Vec<_> = (1..=5)
        .map(|caller| {
            let (cache, lock) = (cache.clone(), lock.clone());
            tokio::spawn(async move { cache.fresh(caller, &lock).await })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    println!("the cache has {:?}", cache.value());
    Ok(())
}
