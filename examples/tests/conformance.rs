//! The store of `own_store.rs`, held to its promises by the suite that holds every store to them.

#[path = "../src/bin/own_store.rs"]
#[expect(dead_code, reason = "the program itself is not run here")]
mod own_store;

use std::process::ExitCode;
use std::sync::Arc;

use fencepost::backend::records::{RecordStore, Records};
use fencepost::backend::table::KeyRecord;
use fencepost::backend::{Backend, async_trait};
use fencepost::{LockKey, Result};
use lock_conformance::{Fixture, Promises, Suite};
use own_store::Shelf;

struct OneShelf(Shelf);

#[async_trait]
impl Fixture for OneShelf {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Records::new(self.0.clone())))
    }

    async fn forget(&self, key: &LockKey) -> Result<()> {
        self.0.forget(key);
        Ok(())
    }

    async fn set_fence(&self, key: &LockKey, token: u64) -> Result<()> {
        let known = self.0.read(key).await?;
        self.0.write(key, known.version, &KeyRecord::with_fence(token).encode()).await.map(|_| ())
    }
}

fn main() -> ExitCode {
    let promises = Promises::all()
        .without_a_server()
        .weaker(2, "by the tasks of one process")
        .weaker(9, "by two sessions that look the same")
        .weaker(35, "across clients; its data end with its process")
        .not_applicable(67, "its locks end with its process")
        .not_applicable(70, "it goes by the machine's own clock")
        .not_applicable(85, "it goes by the machine's own clock")
        .not_applicable(91, "it lives in one process");
    Suite::new("shelf", || async { Ok(OneShelf(Shelf::default())) }).promises(promises).main()
}
