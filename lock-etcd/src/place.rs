//! [`Places`]: which names a session's claims have, and how they stand as far as it knows.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use lock_core::{BootTime, Certainty, Claim, ClaimRef, LockKey, Term, Ticket};

use crate::ahead::Ahead;

/// How many of one session's claims of one lock are in the store at once. Thousands at once have timed out there; the others wait
/// here, in their order.
pub(crate) const CONTENDERS: usize = 64;

/// A session's claims.
///
/// Invariant: a slot is used again only when no copy of a claim in it can be on its way. So what is under a name belongs to the
/// ticket that has the slot.
#[derive(Debug, Default)]
pub(crate) struct Places {
    claims: HashMap<Ticket, Place>,
    /// Tickets of which nothing may come any more, whoever asks.
    withdrawn: HashSet<Ticket>,
    locks: HashMap<LockKey, Slots>,
}

/// One claim's place.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) key: LockKey,
    pub(crate) slot: u32,
    pub(crate) stands: Stands,
    pub(crate) at_least: Duration,
    /// It is to have a lease of its own when it holds.
    pub(crate) is_timed: bool,
    /// What it waits for.
    pub(crate) ahead: Option<Ahead>,
    /// Since when it has been seen as the first that waits.
    pub(crate) first_since: Option<BootTime>,
    /// Requests that may make it and were not answered: each may still arrive.
    unanswered: u32,
    /// A deletion of whatever is under its name was sent, and may still arrive unless it was answered.
    pub(crate) may_be_deleted: bool,
}

/// Whether a claim may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// In this slot.
    In(u32),
    /// Not before others of the same session.
    WaitsHere,
    /// Never more.
    Withdrawn,
}

/// What of a claim that has left may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    Nothing,
    /// A deletion of its name.
    Deletion,
    /// A copy of it, which takes no effect.
    Copy,
}

/// How a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// No answer has come yet.
    Unknown,
    /// It was made at this revision.
    Waits(i64),
    /// It holds, since this instant at the latest.
    Holds(i64, BootTime),
}

#[derive(Debug, Default)]
struct Slots {
    used: BTreeSet<u32>,
    /// Names under which a late copy could still appear.
    burnt: BTreeSet<u32>,
    waiting: VecDeque<Ticket>,
}

impl Places {
    /// A claim is about to be sent.
    pub(crate) fn enter(&mut self, claim: &Claim) -> Entered {
        if self.withdrawn.contains(&claim.ticket) {
            return Entered::Withdrawn;
        }
        if let Some(place) = self.claims.get(&claim.ticket) {
            return Entered::In(place.slot);
        }
        let slots = self.locks.entry(claim.key.clone()).or_default();
        let is_next = slots.waiting.iter().position(|ticket| *ticket == claim.ticket);
        // Those who came before go first.
        if is_next.unwrap_or(slots.waiting.len()) >= slots.free() {
            if claim.wait && is_next.is_none() {
                slots.waiting.push_back(claim.ticket);
            }
            self.forget_if_idle(&claim.key);
            return Entered::WaitsHere;
        }
        if let Some(place) = is_next {
            slots.waiting.remove(place);
        }
        let taken = |slot: &u32| slots.used.contains(slot) || slots.burnt.contains(slot);
        let slot = (0..).find(|slot| !taken(slot)).unwrap_or(u32::MAX);
        slots.used.insert(slot);
        let (at_least, is_timed) = match claim.term {
            Term::Session { at_least } => (at_least, !at_least.is_zero()),
            _ => (Duration::ZERO, true),
        };
        let place = Place {
            key: claim.key.clone(),
            slot,
            stands: Stands::Unknown,
            at_least,
            is_timed,
            ahead: None,
            first_since: None,
            unanswered: 0,
            may_be_deleted: false,
        };
        self.claims.insert(claim.ticket, place);
        Entered::In(slot)
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

    /// Whether a copy of the claim may still arrive.
    pub(crate) fn may_arrive(&self, ticket: Ticket) -> bool {
        self.claims.get(&ticket).is_some_and(|place| place.unanswered > 0)
    }

    /// A deletion of whatever is under its name goes out. It may be answered or not: its slot is not used again unless it was.
    pub(crate) fn deletes(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.may_be_deleted = true;
        }
    }

    /// The claim that was made at this revision holds, now or since before.
    pub(crate) fn holds(&mut self, ticket: Ticket, revision: i64, now: BootTime) {
        let Some(place) = self.claims.get_mut(&ticket) else { return };
        (place.ahead, place.first_since) = (None, None);
        if !matches!(place.stands, Stands::Holds(..)) {
            place.stands = Stands::Holds(revision, now);
        }
    }

    /// Whether a claim waits here, and has never been sent.
    pub(crate) fn waits_here(&self, key: &LockKey, ticket: Ticket) -> bool {
        self.locks.get(key).is_some_and(|slots| slots.waiting.contains(&ticket))
    }

    /// Who may be sent next of those who wait here: whoever is told in vain is told again when another place is left.
    pub(crate) fn next(&self, key: &LockKey) -> Option<Ticket> {
        let slots = self.locks.get(key)?;
        if slots.free() > 0 { slots.waiting.front().copied() } else { None }
    }

    /// A claim that was never sent is given back; whether it waited here.
    pub(crate) fn give_up(&mut self, claim: &ClaimRef, certainty: Certainty) -> bool {
        let (key, ticket) = (&claim.key, claim.ticket);
        if certainty == Certainty::MaybeInFlight {
            self.withdrawn.insert(ticket);
        }
        let Some(slots) = self.locks.get_mut(key) else { return false };
        let before = slots.waiting.len();
        slots.waiting.retain(|other| *other != ticket);
        let gave_up = slots.waiting.len() < before;
        self.forget_if_idle(key);
        gave_up
    }

    /// Nothing of this claim is in the store any more.
    pub(crate) fn leave(&mut self, ticket: Ticket, remains: Remains) {
        let Some(place) = self.claims.remove(&ticket) else { return };
        let Some(slots) = self.locks.get_mut(&place.key) else { return };
        slots.used.remove(&place.slot);
        if remains != Remains::Nothing {
            slots.burnt.insert(place.slot);
        }
        if remains == Remains::Copy {
            self.withdrawn.insert(ticket);
        }
        self.forget_if_idle(&place.key);
    }

    fn forget_if_idle(&mut self, key: &LockKey) {
        if self.locks.get(key).is_some_and(Slots::is_idle) {
            self.locks.remove(key);
        }
    }
}

impl Place {
    /// Whether news of what it waits for can come.
    pub(crate) fn is_heard(&self) -> bool {
        self.ahead.as_ref().is_some_and(Ahead::is_alive)
    }
}

impl Slots {
    fn free(&self) -> usize {
        CONTENDERS.saturating_sub(self.used.len())
    }

    fn is_idle(&self) -> bool {
        self.used.is_empty() && self.burnt.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::{Mode, Permit};

    fn key() -> LockKey {
        LockKey::new("k").unwrap()
    }

    fn claim(ticket: u64) -> Claim {
        Claim::new(key(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
    }

    #[test]
    fn a_slot_is_used_again_when_nothing_can_come_of_it() {
        let mut places = Places::default();
        assert_eq!(
            (places.enter(&claim(1)), places.enter(&claim(2)), places.enter(&claim(1))),
            (Entered::In(0), Entered::In(1), Entered::In(0))
        );
        places.leave(Ticket(1), Remains::Nothing);
        places.leave(Ticket(2), Remains::Copy);
        assert_eq!(places.enter(&claim(2)), Entered::Withdrawn);
        assert_eq!((places.enter(&claim(3)), places.enter(&claim(4))), (Entered::In(0), Entered::In(2)));
        places.leave(Ticket(3), Remains::Deletion);
        assert_eq!(places.enter(&claim(5)), Entered::In(3));
    }

    #[test]
    fn what_was_not_answered_may_arrive() {
        let mut places = Places::default();
        places.enter(&claim(1));
        places.sent(Ticket(1));
        places.sent(Ticket(1));
        places.answered(Ticket(1));
        assert!(places.may_arrive(Ticket(1)), "the first of the two");
        places.answered(Ticket(1));
        assert!(!places.may_arrive(Ticket(1)));
    }

    #[test]
    fn those_who_are_too_many_wait_in_their_order() {
        let mut places = Places::default();
        let many = u64::try_from(CONTENDERS).unwrap();
        for ticket in 0..many + 3 {
            assert_eq!(places.enter(&claim(ticket)) != Entered::WaitsHere, ticket < many);
        }
        assert_eq!(places.next(&key()), None);
        places.leave(Ticket(0), Remains::Nothing);
        assert_eq!(places.next(&key()), Some(Ticket(many)));
        assert_eq!(places.enter(&claim(many + 1)), Entered::WaitsHere, "one came before");
        assert_eq!(places.enter(&claim(many + 9)), Entered::WaitsHere);
        assert_eq!(places.enter(&claim(many)), Entered::In(0));
        let given_up = ClaimRef::new(key(), Ticket(many + 1));
        assert!(
            places.give_up(&given_up, Certainty::Settled) && !places.give_up(&given_up, Certainty::Settled)
        );
        places.leave(Ticket(1), Remains::Nothing);
        assert_eq!(places.next(&key()), Some(Ticket(many + 2)));
    }

    #[test]
    fn whoever_gives_up_lets_the_next_one_in() {
        let mut places = Places::default();
        let many = u64::try_from(CONTENDERS).unwrap();
        for ticket in 0..many + 2 {
            places.enter(&claim(ticket));
        }
        places.leave(Ticket(0), Remains::Nothing);
        // It was told, and leaves all the same.
        places.give_up(&ClaimRef::new(key(), Ticket(many)), Certainty::Settled);
        assert_eq!(places.next(&key()), Some(Ticket(many + 1)));
    }
}
