//! The lock table: the rules of every lock as a pure state machine.
//!
//! One key's record is a [`KeyRecord`], one session's a [`SessionRecord`]. [`KeyRecord::apply`] takes a reading of the
//! store's clock, a command and the liveness of sessions, and answers with an outcome and with notices for sessions.
//! It reads no clock, draws no random number and does no I/O: the same arguments give the same result on every
//! machine, so that a replicated log can run it. Both records have one canonical, versioned encoding.
//!
//! It is the executable specification of every store: the memory backend is this table behind a mutex, stores that
//! offer only compare-and-set of a record run it in the client ([`crate::records`]), and the scripts and SQL functions
//! of the others are held against it command by command.
//!
//! A key's record holds no session's deadline. Taking over from a dead session is two steps: end the session's record,
//! irrevocably ([`SessionCommand::End`]), *then* apply a command to the key's record with a liveness that says so. So a
//! store needs no transaction over two records.
//!
//! ```
//! use lock_core::table::{Command, Input, KeyRecord, Outcome, Request};
//! use lock_core::{Mode, Permit, SessionId, Term, Ticket};
//!
//! let mut record = KeyRecord::new();
//! let alive = |_: SessionId| true;
//! let request = Request {
//!     session: SessionId::from_u128(1),
//!     ticket: Ticket(1),
//!     mode: Mode::Exclusive,
//!     permit: Permit::MUTEX,
//!     wait: false,
//!     term: Term::default(),
//!     note: None,
//! };
//! let granted = record.apply(Input { now: 1_000, proposed_token: 1_000 }, &Command::Claim(request), &alive);
//! assert!(matches!(granted.outcome, Outcome::Granted { token } if token.get() == 1_000));
//! ```

mod codec;
mod entry;
mod key;
mod session;
mod step;
#[cfg(test)]
mod tests;

pub use self::codec::Malformed;
pub use self::entry::{Holder, Holding, Waiter};
pub use self::key::KeyRecord;
pub use self::session::{SessionCommand, SessionOutcome, SessionRecord};
use crate::backend::{Certainty, Claim, Released, SessionId, Term, Ticket};
use crate::error::{Error, ErrorKind};
use crate::hold::Reason;
use crate::holder::Note;
use crate::mode::{Mode, Permit};
use crate::token::FencingToken;

/// The readings that a command is judged by. Taken once for each command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The store's clock, in microseconds since whenever. A record never goes back: an earlier reading counts as the
    /// latest one that changed it.
    pub now: u64,
    /// The smallest token that a grant may get: usually the store's clock in microseconds, so that tokens rise even
    /// after the record was lost.
    pub proposed_token: u64,
}

/// What is asked of a key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Grant, enqueue or answer busy.
    Claim(Request),
    /// Give back a hold or a place in the queue.
    Release {
        /// Whose claim.
        session: SessionId,
        /// Which claim.
        ticket: Ticket,
        /// Whether an earlier copy of the claim may still arrive.
        certainty: Certainty,
    },
    /// End all holds, or the one with this token.
    ForceRelease {
        /// Only this one.
        only: Option<FencingToken>,
    },
    /// Remove whatever has died or expired, and grant to whoever is next.
    Settle,
}

/// A claim, as the table sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The session that claims.
    pub session: SessionId,
    /// Which of its acquisitions.
    pub ticket: Ticket,
    /// How the lock will be held: for people.
    pub mode: Mode,
    /// How much of the capacity it takes.
    pub permit: Permit,
    /// Whether to join the queue.
    pub wait: bool,
    /// For how long the grant holds.
    pub term: Term,
    /// Words for whoever looks.
    pub note: Option<Note>,
}

impl Request {
    /// What a session asks by a claim.
    pub fn of(session: SessionId, claim: &Claim) -> Request {
        Request {
            session,
            ticket: claim.ticket,
            mode: claim.mode,
            permit: claim.permit,
            wait: claim.wait,
            term: claim.term,
            note: claim.note.clone(),
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The claim holds the lock, under this token: now, or since an earlier copy of the claim.
    Granted {
        /// The grant's token.
        token: FencingToken,
    },
    /// The claim waits.
    Queued {
        /// Whether it is next.
        head: bool,
        /// Who is in the way.
        blocker: Option<Blocker>,
    },
    /// The claim did not want to wait.
    Busy {
        /// Who is in the way.
        blocker: Option<Blocker>,
    },
    /// The claim's session is over.
    SessionEnded,
    /// The claim was released before this copy of it arrived.
    Withdrawn,
    /// The key is in use with another capacity.
    CapacityMismatch {
        /// The one in force.
        in_force: u32,
    },
    /// The grant would need a token above the largest.
    FenceExhausted,
    /// What a release found.
    Released(Released),
    /// How many holds were ended by force.
    ForceReleased(usize),
    /// Whatever had to be removed and granted was.
    Settled,
}

impl Outcome {
    /// The error that an outcome stands for. One that stands for none is no answer to what was asked: a
    /// [`Protocol`](ErrorKind::Protocol) error.
    pub fn into_error(self) -> Error {
        match self {
            Outcome::SessionEnded => Error::session_lost(Reason::SessionEnded),
            Outcome::Withdrawn => {
                Error::new(ErrorKind::Withdrawn, "the claim was released before it arrived")
            }
            Outcome::CapacityMismatch { in_force } => Error::new(
                ErrorKind::CapacityMismatch { in_force },
                "mutexes, readers-writer locks and semaphores of different sizes cannot share a key; an idle key adopts \
                 another capacity",
            ),
            Outcome::FenceExhausted => Error::new(
                ErrorKind::FenceExhausted,
                "the key's next token would be above 2^53 - 1: use another key",
            ),
            other => Error::new(ErrorKind::Protocol, format!("the lock table answered with {other:?}")),
        }
    }
}

/// Who is in the way of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The session of the first holder.
    pub session: SessionId,
    /// Its token.
    pub token: FencingToken,
    /// The instant at which the hold ends, where that is fixed; otherwise it ends with its session.
    pub until: Option<u64>,
}

/// What a command came to, and whom to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What it came to.
    pub outcome: Outcome,
    /// Whom to tell, in this order.
    pub notices: Vec<Notice>,
    /// Whether the record differs from before, and has to be written.
    pub changed: bool,
}

/// News for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose claim.
    pub session: SessionId,
    /// Which claim.
    pub ticket: Ticket,
    /// What happened to it.
    pub news: News,
}

/// What happened to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// It was granted.
    Granted {
        /// The grant's token.
        token: FencingToken,
    },
    /// It is next now, or can go no further: claim again to learn how it stands.
    Recheck,
    /// Its hold was ended.
    Revoked(Reason),
    /// Somebody waits for what it holds, or tried; or it is the head of the queue, and somebody behind it asks again.
    Wanted,
}
