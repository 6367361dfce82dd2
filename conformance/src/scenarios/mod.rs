//! What every store has to survive, by group.
//!
//! Where the scenarios come from: Jepsen's analyses (etcd 3.4.3, Hazelcast 3.8 and 3.12, Redis-Raft, jetcd), the test suites
//! of Curator, `DistributedLock`, Redisson, redsync, kazoo and etcd, and bugs that users of those reported. Number 65
//! is for a quorum of independent servers, which no store here has.

mod cancellation;
mod connections;
mod failover;
mod fairness;
mod fencing;
mod input;
mod lease;
mod liveness;
mod load;
mod partitions;
mod pauses;
mod repair;
mod safety;
mod security;
mod servers;
mod terms;

use crate::case::Case;
use crate::promises::Promises;

/// Those that need a server.
const OF_SERVERS: &[&[Case]] =
    &[connections::CASES, servers::CASES, partitions::CASES, failover::CASES, security::CASES];

impl Promises {
    /// The store is no server: what happens to connections, servers and networks cannot happen to it.
    #[must_use]
    pub fn without_a_server(self) -> Promises {
        OF_SERVERS
            .iter()
            .flat_map(|cases| cases.iter())
            .fold(self, |promises, case| promises.not_applicable(case.number, "there is no server"))
    }
}

pub(crate) const CASES: &[&[Case]] = &[
    safety::CASES,
    liveness::CASES,
    fairness::CASES,
    lease::CASES,
    fencing::CASES,
    cancellation::CASES,
    connections::CASES,
    servers::CASES,
    partitions::CASES,
    failover::CASES,
    security::CASES,
    pauses::CASES,
    input::CASES,
    repair::CASES,
    terms::CASES,
    load::CASES,
];
