//! Locks in Postgres, held to their promises: each scenario on a server of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::join;
use fixtures::standalone::Standalone;

fn main() -> ExitCode {
    Suite::new("postgres", Standalone::start)
        .promises(Promises::of_this_project("postgres"))
        .children(join)
        .main()
}
