//! Locks in ZooKeeper, held to their promises: each scenario on a server of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::join;
use fixtures::standalone::Standalone;

fn main() -> ExitCode {
    Suite::new("zookeeper", Standalone::start)
        .promises(Promises::of_this_project("zookeeper"))
        .children(join)
        .main()
}
