//! Locks in a Redis behind sentinels, held to their promises: each scenario on a primary, a replica and three sentinels of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::join;
use fixtures::sentinel::Watched;

fn main() -> ExitCode {
    Suite::new("redis-sentinel", Watched::start)
        .promises(Promises::of_this_project("redis-sentinel"))
        .children(join)
        .main()
}
