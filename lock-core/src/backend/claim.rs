//! What the engine asks of a session, and what it is answered.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::hold::Busy;
use crate::holder::Note;
use crate::key::LockKey;
use crate::mode::{Mode, Permit};
use crate::token::FencingToken;

/// One acquisition within a session. Never reused; the engine counts them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// A request for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// Which lock.
    pub key: LockKey,
    /// Which acquisition.
    pub ticket: Ticket,
    /// How it will be held: for people. Only `permit` decides.
    pub mode: Mode,
    /// How much of the capacity it takes.
    pub permit: Permit,
    /// Whether to join the queue when it cannot be granted now.
    pub wait: bool,
    /// For how long the grant holds.
    pub term: Term,
    /// Words for whoever looks.
    pub note: Option<Note>,
}

impl Claim {
    /// A claim that does not wait, for a hold that lives with its session.
    pub fn new(key: LockKey, ticket: Ticket, mode: Mode, permit: Permit) -> Claim {
        Claim { key, ticket, mode, permit, wait: false, term: Term::default(), note: None }
    }

    /// Joins the queue when it cannot be granted now.
    #[must_use]
    pub fn waiting(mut self, wait: bool) -> Claim {
        self.wait = wait;
        self
    }

    /// Holds for this term.
    #[must_use]
    pub fn term(mut self, term: Term) -> Claim {
        self.term = term;
        self
    }

    /// Leaves a note.
    #[must_use]
    pub fn note(mut self, note: Option<Note>) -> Claim {
        self.note = note;
        self
    }

    /// What `release` and `renew` name it by.
    pub fn reference(&self) -> ClaimRef {
        ClaimRef { key: self.key.clone(), ticket: self.ticket }
    }
}

/// A claim's name within its session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ClaimRef {
    /// Which lock.
    pub key: LockKey,
    /// Which acquisition.
    pub ticket: Ticket,
}

impl ClaimRef {
    /// A reference to a claim.
    pub fn new(key: LockKey, ticket: Ticket) -> ClaimRef {
        ClaimRef { key, ticket }
    }
}

/// For how long a grant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Term {
    /// As long as its session lives, and in any case for `at_least` after the grant, by the store's clock: released
    /// early or orphaned, it turns into a fixed one until then.
    Session {
        /// Zero where nothing was asked.
        at_least: Duration,
    },
    /// From the grant for this long by the store's clock, whatever becomes of the session.
    Fixed(Duration),
}

impl Default for Term {
    fn default() -> Term {
        Term::Session { at_least: Duration::ZERO }
    }
}

/// The answer to a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Claimed {
    /// The lock is this claim's.
    Granted {
        /// The grant's token.
        token: FencingToken,
        /// Whatever the store's own extras need to prove it.
        proof: Proof,
    },
    /// The claim waits in the queue. A store without a queue remembers that it waits, so that `renew` can say so.
    Queued {
        /// When to claim again without having been told: for the head of a pushing store's queue, when the holder
        /// would expire; for a polling store, its interval. `None`: not before an event or a `renew` says so. The engine
        /// asks sooner if it hears nothing for three TTLs.
        recheck_in: Option<Duration>,
        /// Who is in the way.
        busy: Busy,
    },
    /// It cannot be granted now and did not want to wait. Nothing was kept.
    Busy(Busy),
}

/// Something of the store's own that belongs to a grant: opaque to the engine, handed on by the guard.
#[derive(Clone, Default)]
pub struct Proof(Option<Arc<dyn Any + Send + Sync>>);

impl Proof {
    /// No proof: most stores need none.
    pub const NONE: Proof = Proof(None);

    /// A proof of the store's own type.
    pub fn new(proof: impl Any + Send + Sync) -> Proof {
        Proof(Some(Arc::new(proof)))
    }

    /// The proof, if it is of this type.
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        self.0.as_deref()?.downcast_ref()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Proof(..)" } else { "Proof(none)" })
    }
}

/// The answer to a renewal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Renewal {
    /// One for each claim that was asked about, in the same order.
    pub standings: Vec<Standing>,
    /// The TTL now in force, where the store changed it.
    pub ttl: Option<Duration>,
}

impl Renewal {
    /// Renewed; and so the claims stand.
    pub fn new(standings: Vec<Standing>) -> Renewal {
        Renewal { standings, ttl: None }
    }
}

/// How one claim stands in the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Standing {
    /// It holds the lock.
    Holds {
        /// The grant's token.
        token: FencingToken,
        /// As in [`Claimed::Granted`].
        proof: Proof,
    },
    /// It waits in the queue.
    Waits {
        /// As in [`Claimed::Queued`].
        recheck_in: Option<Duration>,
    },
    /// The store does not know it.
    Gone,
    /// It could not be found out: the claim stays as it is, and a hold of which nothing is known for a whole TTL is at risk.
    /// For what is wrong with one key, so that the session's other claims do not suffer from it.
    Unknown,
}

/// What is known of earlier copies of a claim when it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Certainty {
    /// The claim was sent once and answered: no copy of it is on its way.
    Settled,
    /// It was sent more than once, or its outcome is unknown: a copy may still arrive.
    MaybeInFlight,
}

/// The answer to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Released {
    /// A hold was given back, or a place in the queue.
    Done,
    /// There was nothing to give back: it had been released, lost or ended before.
    Gone,
}
