//! The files and the lock table: random commands come to the same, whichever process they come from.

use std::sync::Arc;

use lock_conformance::oracle::compare_with_the_table;
use lock_file::FileOptions;

#[test]
fn the_files_answer_as_the_table() {
    let compared = compare_with_the_table(64, |clock| {
        let dir = tempfile::tempdir().map_err(|error| lock_core::Error::unavailable(error.to_string()))?;
        // Each client opens the directory anew, as another process would.
        Ok(move || {
            lock_file::backend(dir.path().join("locks"), FileOptions::new().clock(Arc::new(clock.clone())))
        })
    });
    assert_eq!(compared, Ok(()));
}
