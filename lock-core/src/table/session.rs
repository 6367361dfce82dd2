//! [`SessionRecord`]: one session's life.

use crate::backend::SessionId;
use crate::holder::HolderInfo;

/// One session's record: a renewal stamp, and whether it was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub(super) id: SessionId,
    pub(super) ttl: u64,
    pub(super) stamp: u64,
    pub(super) ended: bool,
    pub(super) info: HolderInfo,
}

/// What is asked of a session's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionCommand {
    /// Move the stamp to now. A session that is over stays over.
    Renew,
    /// End it if its time is over: the first step of taking over from it.
    EndIfExpired,
    /// End it if it was not renewed since this stamp was seen: for stores without a clock that all agree on.
    EndUnlessRenewed {
        /// The stamp that was seen.
        stamp: u64,
    },
    /// End it.
    End,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOutcome {
    /// It lives, and expires at this instant unless it is renewed.
    Lives {
        /// By the clock of the store.
        until: u64,
    },
    /// It is over, for ever.
    Ended,
}

impl SessionRecord {
    /// A session that opens at this instant, for a TTL in microseconds.
    pub fn open(id: SessionId, now: u64, ttl: u64, info: HolderInfo) -> SessionRecord {
        SessionRecord { id, ttl, stamp: now, ended: false, info }
    }

    /// The session's name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whose it is.
    pub fn info(&self) -> &HolderInfo {
        &self.info
    }

    /// The instant of the last renewal.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The TTL, in microseconds.
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    /// Whether it was ended. One that is not may still have expired.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The instant at which anybody may end it, unless it is renewed.
    pub fn expires_at(&self) -> u64 {
        self.stamp.saturating_add(self.ttl)
    }

    /// Applies a command. An instant before the stamp counts as the stamp's.
    ///
    /// A renewal revives a session that has expired and that nobody has ended. Where others take expiry alone for its
    /// end, apply [`SessionCommand::EndIfExpired`] before it.
    pub fn apply(&mut self, now: u64, command: SessionCommand) -> SessionOutcome {
        match command {
            SessionCommand::Renew if !self.ended => self.stamp = self.stamp.max(now),
            SessionCommand::Renew => {}
            SessionCommand::EndIfExpired => self.ended |= now >= self.expires_at(),
            SessionCommand::EndUnlessRenewed { stamp } => self.ended |= self.stamp == stamp,
            SessionCommand::End => self.ended = true,
        }
        if self.ended { SessionOutcome::Ended } else { SessionOutcome::Lives { until: self.expires_at() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionRecord {
        SessionRecord::open(SessionId::from_u128(1), 100, 50, HolderInfo::new(1))
    }

    #[test]
    fn a_session_that_was_ended_never_comes_back() {
        let mut session = session();
        assert_eq!(session.apply(149, SessionCommand::EndIfExpired), SessionOutcome::Lives { until: 150 });
        assert_eq!(session.apply(150, SessionCommand::EndIfExpired), SessionOutcome::Ended);
        assert_eq!(session.apply(120, SessionCommand::Renew), SessionOutcome::Ended);
    }

    #[test]
    fn a_renewal_that_came_first_saves_it() {
        let mut session = session();
        let seen = session.stamp();
        assert_eq!(session.apply(160, SessionCommand::Renew), SessionOutcome::Lives { until: 210 });
        assert_eq!(session.apply(160, SessionCommand::EndIfExpired), SessionOutcome::Lives { until: 210 });
        assert_eq!(
            session.apply(160, SessionCommand::EndUnlessRenewed { stamp: seen }),
            SessionOutcome::Lives { until: 210 }
        );
        assert_eq!(
            session.apply(160, SessionCommand::EndUnlessRenewed { stamp: 160 }),
            SessionOutcome::Ended
        );
    }

    #[test]
    fn a_clock_that_steps_back_shortens_nothing() {
        let mut session = session();
        assert_eq!(session.apply(20, SessionCommand::Renew), SessionOutcome::Lives { until: 150 });
    }
}
