//! The memory store and the lock table: random commands come to the same.

use std::sync::Arc;

use lock_conformance::oracle::compare_with_the_table;
use lock_core::{Backend, MemoryBackend};

#[test]
fn the_memory_store_answers_as_the_table() {
    let compared = compare_with_the_table(256, |clock| {
        let store = MemoryBackend::with_clock(Arc::new(clock));
        Ok(move || Ok(store.clone() as Arc<dyn Backend>))
    });
    assert_eq!(compared, Ok(()));
}
