//! The runtime of one scenario, of one child process, of one run of the oracle.

use tokio::runtime::{Builder, Runtime};

use crate::verdict::Verdict;

/// With two threads: what has to be safe between threads is played between threads.
pub(crate) fn runtime() -> Verdict<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
