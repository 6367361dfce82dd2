//! What a store promises: [`BackendInfo`] and [`Capabilities`].

use std::time::Duration;

/// A store's name and promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The scheme of its URLs: `memory`, `file`, `redis`.
    pub scheme: &'static str,
    /// Where it is, without secrets: for errors and logs.
    pub endpoint: String,
    /// What it promises.
    pub capabilities: Capabilities,
}

impl BackendInfo {
    /// A store's name, place and promises.
    pub fn new(scheme: &'static str, endpoint: impl Into<String>, capabilities: Capabilities) -> BackendInfo {
        BackendInfo { scheme, endpoint: endpoint.into(), capabilities }
    }
}

/// What a store promises. The engine plans by it, and users trust it.
///
/// [`Capabilities::new`] promises the least: every store sets what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How the end of a holder is noticed.
    pub liveness: Liveness,
    /// For how long after its TTL a dead holder's key may stay taken.
    pub expiry_slack: Duration,
    /// What the rise of its tokens rests on.
    pub fencing: Fencing,
    /// First come, first served, also across processes.
    pub fair: bool,
    /// Waiters are told; otherwise the engine asks again as often as `recheck_in` says.
    pub push: bool,
    /// Holds can end at a fixed instant instead of with their session: `hold_at_least` and detached holds.
    pub fixed_terms: bool,
    /// What becomes of a lock when the store fails over to another node.
    pub failover: Failover,
    /// The most claims that one `renew` verifies.
    pub verify_chunk: usize,
}

impl Capabilities {
    /// A leased store that polls, in no order, under a clock-based fence.
    pub fn new() -> Capabilities {
        Capabilities {
            liveness: Liveness::Lease,
            expiry_slack: Duration::ZERO,
            fencing: Fencing::Clock,
            fair: false,
            push: false,
            fixed_terms: false,
            failover: Failover::NotApplicable,
            verify_chunk: 1000,
        }
    }

    /// How the end of a holder is noticed.
    #[must_use]
    pub fn liveness(mut self, liveness: Liveness) -> Capabilities {
        self.liveness = liveness;
        self
    }

    /// For how long after its TTL a dead holder's key may stay taken.
    #[must_use]
    pub fn expiry_slack(mut self, slack: Duration) -> Capabilities {
        self.expiry_slack = slack;
        self
    }

    /// What the rise of its tokens rests on.
    #[must_use]
    pub fn fencing(mut self, fencing: Fencing) -> Capabilities {
        self.fencing = fencing;
        self
    }

    /// First come, first served.
    #[must_use]
    pub fn fair(mut self) -> Capabilities {
        self.fair = true;
        self
    }

    /// Waiters are told.
    #[must_use]
    pub fn push(mut self) -> Capabilities {
        self.push = true;
        self
    }

    /// Holds can end at a fixed instant.
    #[must_use]
    pub fn fixed_terms(mut self) -> Capabilities {
        self.fixed_terms = true;
        self
    }

    /// What becomes of a lock at a failover.
    #[must_use]
    pub fn failover(mut self, failover: Failover) -> Capabilities {
        self.failover = failover;
        self
    }

    /// The most claims that one `renew` verifies; at least 1.
    #[must_use]
    pub fn verify_chunk(mut self, chunk: usize) -> Capabilities {
        self.verify_chunk = chunk.max(1);
        self
    }
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities::new()
    }
}

/// How the end of a holder is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Liveness {
    /// By its lease, which runs out.
    Lease,
    /// By the end of its process, at once; and by its lease, should the process be stopped.
    ProcessAndLease,
}

/// What the rise of a store's fencing tokens rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fencing {
    /// Tokens rise as long as the store keeps what it acknowledged.
    Durable,
    /// Tokens also rise after the store's data was lost, as long as its clock has not gone back.
    Clock,
}

/// What becomes of a lock when the store fails over to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failover {
    /// There is nothing to fail over to.
    NotApplicable,
    /// It is kept.
    Kept,
    /// It may be lost: the new node may lack the latest grants, and grant again.
    MayLose,
}
