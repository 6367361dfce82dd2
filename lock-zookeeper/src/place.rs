//! [`Places`]: a session's claims, and how they stand as far as it knows.

use std::collections::HashMap;

use lock_core::queue::{Contenders, Withdrawn};
use lock_core::{BootTime, Certainty, Claim, ClaimRef, LockKey, Ticket};

/// How many of one session's claims of one lock wait in the store at once: each is in every list of the lock's claims. The others
/// wait here, in their order.
pub(crate) const CONTENDERS: usize = 64;

/// A session's claims.
#[derive(Debug)]
pub(crate) struct Places {
    claims: HashMap<Ticket, Place>,
    withdrawn: Withdrawn,
    contenders: Contenders,
}

/// One claim's place.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) key: LockKey,
    pub(crate) stands: Stands,
    /// What it waits for, and whether news of that can come.
    pub(crate) watches: Option<Watched>,
    /// Since when it has been seen as the first that waits.
    pub(crate) first_since: Option<BootTime>,
    /// Requests that may make it and were not answered: each may still arrive.
    unanswered: u32,
}

/// A node of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) path: String,
    /// When it was made: its token.
    pub(crate) zxid: i64,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// No answer has come yet.
    Unknown,
    Waits(Made),
    Holds(Made),
}

/// What a claim watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// That this node goes.
    Node(String),
    /// That any claim of the lock comes or goes.
    All,
}

/// Whether a claim may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It may, and this one as well, of those who wait here.
    Sent { next: Option<Ticket> },
    /// Not before others of the same session.
    WaitsHere,
    /// Never more.
    Withdrawn,
}

impl Places {
    pub(crate) fn new() -> Places {
        Places {
            claims: HashMap::new(),
            withdrawn: Withdrawn::default(),
            contenders: Contenders::at_most(CONTENDERS),
        }
    }

    /// A claim is about to be sent.
    pub(crate) fn enter(&mut self, claim: &Claim) -> Entered {
        if self.withdrawn.contains(claim.ticket) {
            return Entered::Withdrawn;
        }
        if self.claims.contains_key(&claim.ticket) {
            return Entered::Sent { next: None };
        }
        if !self.contenders.enter(&claim.key, claim.ticket, claim.wait) {
            return Entered::WaitsHere;
        }
        let place = Place {
            key: claim.key.clone(),
            stands: Stands::Unknown,
            watches: None,
            first_since: None,
            unanswered: 0,
        };
        self.claims.insert(claim.ticket, place);
        // Several places may have become free when one of those who wait here was told.
        Entered::Sent { next: self.contenders.next(&claim.key) }
    }

    pub(crate) fn of(&mut self, ticket: Ticket) -> Option<&mut Place> {
        self.claims.get_mut(&ticket)
    }

    /// A request that may make the claim goes out.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered += 1;
        }
    }

    /// And this is what became of it, for certain.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered = place.unanswered.saturating_sub(1);
        }
    }

    /// Nothing that was sent before can arrive any more.
    pub(crate) fn nothing_may_arrive(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered = 0;
        }
    }

    /// Whether a copy of the claim may still arrive.
    pub(crate) fn may_arrive(&self, ticket: Ticket) -> bool {
        self.claims.get(&ticket).is_some_and(|place| place.unanswered > 0)
    }

    /// The claim holds, now or since before. Returns who may be sent in its place.
    pub(crate) fn holds(&mut self, ticket: Ticket, made: Made) -> Option<Ticket> {
        let place = self.claims.get_mut(&ticket)?;
        (place.watches, place.first_since) = (None, None);
        match std::mem::replace(&mut place.stands, Stands::Holds(made)) {
            Stands::Holds(_) => None,
            _ => self.contenders.leave(&place.key),
        }
    }

    /// The claim is not in the store any more, and is to be made anew.
    pub(crate) fn has_gone(&mut self, ticket: Ticket) {
        let Some(place) = self.claims.get_mut(&ticket) else { return };
        // What it waited for, it waited for in its old place.
        (place.watches, place.first_since) = (None, None);
        if let Stands::Holds(_) = std::mem::replace(&mut place.stands, Stands::Unknown) {
            self.contenders.contend_again(&place.key);
        }
    }

    /// Whether a claim waits here, and has never been sent.
    pub(crate) fn waits_here(&self, claim: &ClaimRef) -> bool {
        self.contenders.waits_here(&claim.key, claim.ticket)
    }

    /// Who may be sent next of those who wait here.
    pub(crate) fn next(&self, key: &LockKey) -> Option<Ticket> {
        self.contenders.next(key)
    }

    /// A claim is given back of which nothing is in the store: whether it waited here.
    pub(crate) fn give_up(&mut self, claim: &ClaimRef, certainty: Certainty) -> bool {
        if certainty == Certainty::MaybeInFlight {
            self.withdrawn.insert(claim.ticket);
        }
        self.contenders.give_up(&claim.key, claim.ticket)
    }

    /// Nothing of this claim is in the store any more, nor on its way there. Returns who may be sent in its place.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Ticket> {
        let place = self.claims.remove(&ticket)?;
        match place.stands {
            Stands::Holds(_) => self.contenders.next(&place.key),
            _ => self.contenders.leave(&place.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::{Mode, Permit};

    fn claim(ticket: u64) -> Claim {
        let key = LockKey::new("k").unwrap();
        Claim::new(key, Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
    }

    fn made(zxid: i64) -> Made {
        Made { path: format!("/l/{zxid}"), zxid }
    }

    #[test]
    fn what_was_not_answered_may_arrive() {
        let mut places = Places::new();
        places.enter(&claim(1));
        places.sent(Ticket(1));
        places.sent(Ticket(1));
        places.answered(Ticket(1));
        assert!(places.may_arrive(Ticket(1)), "the first of the two");
        places.nothing_may_arrive(Ticket(1));
        assert!(!places.may_arrive(Ticket(1)));
    }

    #[test]
    fn whoever_holds_makes_room_for_those_who_wait_here() {
        let (mut places, many) = (Places::new(), u64::try_from(CONTENDERS).unwrap());
        for ticket in 0..many {
            assert_eq!(places.enter(&claim(ticket)), Entered::Sent { next: None });
        }
        assert_eq!(places.enter(&claim(many)), Entered::WaitsHere);
        assert!(places.waits_here(&claim(many).reference()));
        assert_eq!(places.holds(Ticket(0), made(1)), Some(Ticket(many)));
        assert_eq!(places.holds(Ticket(0), made(1)), None, "told once");
        // It is ended by force, and made anew.
        places.has_gone(Ticket(0));
        assert_eq!(places.next(&claim(0).key), None);
        assert_eq!(places.leave(Ticket(1)), Some(Ticket(many)));
        assert!(places.give_up(&claim(many).reference(), Certainty::MaybeInFlight));
        assert_eq!(places.enter(&claim(many)), Entered::Withdrawn);
        for ticket in 0..many {
            places.leave(Ticket(ticket));
        }
        assert!(places.claims.is_empty() && places.contenders.are_none(), "{places:?}");
    }
}
