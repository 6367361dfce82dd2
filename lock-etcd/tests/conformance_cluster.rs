//! Locks in an etcd cluster, held to their promises: each scenario on three members of its own.

mod fixtures;

use std::process::ExitCode;

use lock_conformance::{Promises, Suite};

use fixtures::cluster::Cluster;
use fixtures::join;

fn main() -> ExitCode {
    Suite::new("etcd-cluster", Cluster::start)
        .promises(Promises::of_this_project("etcd-cluster"))
        .children(join)
        .main()
}
