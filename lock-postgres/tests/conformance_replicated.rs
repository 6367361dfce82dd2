//! Locks in a Postgres that has a standby, held to their promises: each scenario on a primary and a standby of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::join;
use fixtures::replicated::Replicated;

fn main() -> ExitCode {
    Suite::new("postgres-replicated", Replicated::start)
        .promises(Promises::of_this_project("postgres-replicated"))
        .threads(3)
        .children(join)
        .main()
}
