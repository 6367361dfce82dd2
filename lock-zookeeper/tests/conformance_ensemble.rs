//! Locks in a ZooKeeper ensemble, held to their promises: each scenario on three members of its own.

mod fixtures;

use std::process::ExitCode;
use std::time::Duration;

use lock_conformance::{Promises, Suite};

use fixtures::ensemble::Ensemble;
use fixtures::join;

fn main() -> ExitCode {
    Suite::new("zookeeper-ensemble", Ensemble::start)
        .promises(Promises::of_this_project("zookeeper-ensemble"))
        // Three virtual machines are slow to start, and an election is to be over within a lease.
        .ttl(Duration::from_secs(3))
        .threads(2)
        .children(join)
        .main()
}
