//! What becomes of a hold: [`HoldState`], [`End`], [`Reason`]; and [`Busy`], for who did not get one.

use std::fmt;
use std::time::Duration;

use crate::clock::BootTime;
use crate::holder::HolderInfo;
use crate::token::FencingToken;

/// How a hold stands at this instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HoldState {
    /// Held, and verified in time.
    Held {
        /// The instant until which nobody else can be granted the lock, if nothing more is heard.
        until: BootTime,
    },
    /// Still held, but a renewal is overdue: two thirds of the TTL have passed since the last acknowledged one was
    /// sent, or the store has not confirmed this hold for a whole TTL.
    AtRisk {
        /// As in [`HoldState::Held`].
        until: BootTime,
    },
    /// Over. Final: a hold that ended never comes back.
    Ended(End),
}

impl HoldState {
    /// Held or at risk: the lock is still this holder's.
    pub fn is_held(self) -> bool {
        !matches!(self, HoldState::Ended(_))
    }
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// The holder gave it back.
    Released,
    /// It was lost, for this reason.
    Lost(Reason),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Released => f.write_str("released"),
            End::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

/// Why a hold or a session was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The local deadline passed without an acknowledged renewal: the store may grant the lock to another.
    Expired,
    /// The store says that the session is over.
    SessionEnded,
    /// Somebody ended the hold by force.
    Revoked,
    /// The store no longer knows the hold, although the session lives: its data was lost or deleted.
    Forgotten,
    /// The hold reached the age given by `hold_at_most`.
    HeldTooLong,
    /// The client was shut down.
    ShutDown,
    /// Its own guard was released while the work was still running.
    Released,
}

impl Reason {
    /// The reason as one word, as it stands in metrics and machine output.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::SessionEnded => "session_ended",
            Reason::Revoked => "revoked",
            Reason::Forgotten => "forgotten",
            Reason::HeldTooLong => "held_too_long",
            Reason::ShutDown => "shut_down",
            Reason::Released => "released",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Expired => "its lease expired before a renewal was acknowledged",
            Reason::SessionEnded => "the store ended its session",
            Reason::Revoked => "it was ended by force",
            Reason::Forgotten => "the store no longer knows it",
            Reason::HeldTooLong => "it was held longer than hold_at_most",
            Reason::ShutDown => "the client was shut down",
            Reason::Released => "its guard was released while the work was still running",
        })
    }
}

/// The work was dropped because its lock was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lock lost: {0}")]
pub struct Lost(pub Reason);

/// Somebody else has the lock: what the store knew without another round trip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Busy {
    /// Who holds it, when the store knows.
    pub holder: Option<HolderInfo>,
    /// Until when at most the present lease runs if it is not renewed, counted from the answer.
    pub remaining: Option<Duration>,
    /// The holder's token.
    pub token: Option<FencingToken>,
    /// How long ago the store said so: zero for the answer to one attempt. Whoever waited was answered when they joined the
    /// queue, and the lock may have passed on since.
    pub age: Duration,
}

impl Busy {
    /// Busy, and nothing more is known.
    pub fn new() -> Busy {
        Busy::default()
    }

    /// Names the holder.
    #[must_use]
    pub fn held_by(mut self, holder: Option<HolderInfo>) -> Busy {
        self.holder = holder;
        self
    }

    /// Says how long the holder's lease still runs.
    #[must_use]
    pub fn for_another(mut self, remaining: Option<Duration>) -> Busy {
        self.remaining = remaining;
        self
    }

    /// The same, told this much later: a lease that has run out by then says nothing any more.
    #[must_use]
    pub(crate) fn aged(mut self, by: Duration) -> Busy {
        self.age += by;
        self.remaining = self.remaining.and_then(|remaining| remaining.checked_sub(by));
        self
    }

    /// Names the holder's token.
    #[must_use]
    pub fn under(mut self, token: Option<FencingToken>) -> Busy {
        self.token = token;
        self
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => write!(f, "held by {holder}")?,
            None => f.write_str("held by another")?,
        }
        // Below that, nobody could have looked sooner.
        if self.age >= Duration::from_secs(1) {
            write!(f, " as of {} ago", Rounded(self.age))?;
        }
        if let Some(remaining) = self.remaining {
            write!(f, ", whose lease runs for another {}", Rounded(remaining))?;
        }
        Ok(())
    }
}

/// A duration as people read it: no nanoseconds.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms @ 0..1000 => write!(f, "{ms}ms"),
            ms @ 1000..10_000 => write!(f, "{}.{}s", ms / 1000, ms % 1000 / 100),
            ms => write!(f, "{}s", ms / 1000),
        }
    }
}
