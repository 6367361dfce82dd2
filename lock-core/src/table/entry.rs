//! The entries of a key's record.

use crate::backend::{SessionId, Term, Ticket};
use crate::holder::Note;
use crate::mode::Mode;
use crate::token::FencingToken;

/// A holder of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The session that was granted the lock.
    pub session: SessionId,
    /// Which of its acquisitions.
    pub ticket: Ticket,
    /// The grant's token.
    pub token: FencingToken,
    /// In which way it is held.
    pub mode: Mode,
    /// How much of the capacity it takes.
    pub weight: u32,
    /// When it ends.
    pub holding: Holding,
    /// The claim's note.
    pub note: Option<Note>,
}

/// When a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// With its session, and not before this instant.
    Session {
        /// Zero, or grant + `hold_at_least`.
        at_least_until: u64,
    },
    /// At this instant.
    Fixed {
        /// The instant.
        until: u64,
        /// Whether its owner gave it back, or died, and it only stays for the rest of `hold_at_least`.
        returned: bool,
    },
}

impl Holding {
    pub(super) fn granted(term: Term, now: u64) -> Holding {
        match term {
            Term::Session { at_least } if at_least.is_zero() => Holding::Session { at_least_until: 0 },
            Term::Session { at_least } => Holding::Session { at_least_until: after(now, at_least) },
            Term::Fixed(time) => Holding::Fixed { until: after(now, time), returned: false },
        }
    }

    /// The instant at which the hold ends, where that is fixed.
    pub fn fixed_until(self) -> Option<u64> {
        match self {
            Holding::Session { .. } => None,
            Holding::Fixed { until, .. } => Some(until),
        }
    }
}

/// A waiter for the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The session that waits.
    pub session: SessionId,
    /// Which of its acquisitions.
    pub ticket: Ticket,
    /// In which way it wants to hold the lock.
    pub mode: Mode,
    /// How much of the capacity it wants.
    pub weight: u32,
    /// For how long its grant will hold.
    pub term: Term,
    /// The claim's note.
    pub note: Option<Note>,
}

/// Rounded up: nobody holds for less than was asked.
fn after(now: u64, time: std::time::Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX))
}
