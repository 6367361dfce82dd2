//! Locks in a Redis cluster, held to their promises: each scenario on three nodes of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::cluster::Cluster;
use fixtures::join;

fn main() -> ExitCode {
    Suite::new("redis-cluster", Cluster::start)
        .promises(Promises::of_this_project("redis-cluster"))
        .children(join)
        .main()
}
