//! The memory store. Its floor: a map behind a mutex.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lock_benches::{Floor, Subject};
use lock_core::{Backend, MemoryBackend};

struct Memory(Arc<MemoryBackend>);

#[async_trait]
impl Subject for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn backend(&self) -> Arc<dyn Backend> {
        self.0.clone()
    }

    async fn floor(&self) -> Box<dyn Floor> {
        let held = Mutex::new(HashMap::from([("busy".to_owned(), 1_u64)]));
        Box::new(Map { held, token: 1 })
    }
}

struct Map {
    held: Mutex<HashMap<String, u64>>,
    token: u64,
}

#[async_trait]
impl Floor for Map {
    async fn cycle(&mut self) {
        self.token += 1;
        assert!(self.held.lock().unwrap().insert("k".to_owned(), self.token).is_none());
        assert!(self.held.lock().unwrap().remove("k").is_some());
    }

    async fn busy(&mut self) {
        assert!(self.held.lock().unwrap().contains_key("busy"));
    }
}

fn main() {
    lock_benches::run(
        || Box::new(Memory(MemoryBackend::new())),
        |_| unreachable!("a store of one process has no children"),
    );
}
