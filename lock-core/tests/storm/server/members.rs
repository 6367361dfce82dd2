//! The sessions of the store, in the order in which they were opened.

use std::collections::BTreeMap;

use lock_core::table::SessionRecord;
use lock_core::{Event, EventSink, SessionId};

pub(crate) struct Member {
    pub(crate) record: SessionRecord,
    pub(crate) sink: EventSink,
    /// Events that may be told once more.
    pub(crate) told: Vec<Event>,
    /// The latest of its claims that has arrived.
    pub(crate) last_ticket: u64,
}

#[derive(Default)]
pub(crate) struct Members {
    members: Vec<(SessionId, Member)>,
    places: BTreeMap<SessionId, usize>,
}

impl Members {
    pub(crate) fn add(&mut self, session: SessionId, member: Member) {
        self.places.insert(session, self.members.len());
        self.members.push((session, member));
    }

    pub(crate) fn find(&self, session: SessionId) -> Option<&Member> {
        Some(&self.members[*self.places.get(&session)?].1)
    }

    pub(crate) fn find_mut(&mut self, session: SessionId) -> Option<&mut Member> {
        Some(&mut self.members[*self.places.get(&session)?].1)
    }

    /// Expiry is final: a renewal first ends what is over.
    pub(crate) fn lives(&self, session: SessionId, micros: u64) -> bool {
        self.find(session)
            .is_some_and(|member| !member.record.is_ended() && micros < member.record.expires_at())
    }

    pub(crate) fn living(&self, micros: u64) -> Vec<SessionId> {
        let ids = self.members.iter().map(|&(id, _)| id);
        ids.filter(|&id| self.lives(id, micros)).collect()
    }
}
