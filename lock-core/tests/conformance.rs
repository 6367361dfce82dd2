//! The memory store, held to its promises.

use std::process::ExitCode;
use std::sync::Arc;

use lock_conformance::{Fixture, Promises, SkewedClock, Suite};
use lock_core::{Backend, LockKey, MemoryBackend, Result, async_trait};

struct Memory {
    clock: SkewedClock,
    store: Arc<MemoryBackend>,
}

#[async_trait]
impl Fixture for Memory {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        Ok(self.store.clone())
    }

    fn clock(&self) -> Option<SkewedClock> {
        Some(self.clock.clone())
    }

    async fn forget(&self, key: &LockKey) -> Result<()> {
        self.store.forget(key);
        Ok(())
    }
}

fn main() -> ExitCode {
    let start = || async {
        let clock = SkewedClock::new();
        Ok(Memory { store: MemoryBackend::with_clock(Arc::new(clock.clone())), clock })
    };
    Suite::new("memory", start).promises(Promises::of_this_project("memory")).main()
}
