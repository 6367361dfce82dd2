//! Locks in a ZooKeeper ensemble, held to their promises: each scenario on three members of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::ensemble::Ensemble;
use fixtures::join;

fn main() -> ExitCode {
    Suite::new("zookeeper-ensemble", Ensemble::start)
        .promises(Promises::of_this_project("zookeeper-ensemble"))
        .children(join)
        .main()
}
