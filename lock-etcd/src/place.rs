//! [`Places`]: which names a session's claims have, and how they stand as far as it knows.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use lock_core::{BootTime, Certainty, Claim, ClaimRef, LockKey, Ticket};

use crate::watch::Watch;

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
    /// What it waits for.
    pub(crate) watch: Option<Watch>,
    /// How often it was found to be the first that waits.
    pub(crate) found_first: u32,
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
        let free = CONTENDERS.saturating_sub(slots.used.len());
        // Those who came before go first.
        if free == 0 || is_next.unwrap_or(slots.waiting.len()) >= free {
            if claim.wait && is_next.is_none() {
                slots.waiting.push_back(claim.ticket);
            }
            return Entered::WaitsHere;
        }
        if let Some(place) = is_next {
            slots.waiting.remove(place);
        }
        let taken = |slot: &u32| slots.used.contains(slot) || slots.burnt.contains(slot);
        let slot = (0..).find(|slot| !taken(slot)).unwrap_or(u32::MAX);
        slots.used.insert(slot);
        let at_least = match claim.term {
            lock_core::Term::Session { at_least } => at_least,
            _ => Duration::ZERO,
        };
        let (key, stands) = (claim.key.clone(), Stands::Unknown);
        self.claims.insert(claim.ticket, Place { key, slot, stands, at_least, watch: None, found_first: 0 });
        Entered::In(slot)
    }

    pub(crate) fn of(&mut self, ticket: Ticket) -> Option<&mut Place> {
        self.claims.get_mut(&ticket)
    }

    /// Whether a claim waits here, and has never been sent.
    pub(crate) fn waits_here(&self, key: &LockKey, ticket: Ticket) -> bool {
        self.locks.get(key).is_some_and(|slots| slots.waiting.contains(&ticket))
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

    /// Nothing of this claim is in the store any more. `is_certain`: and no copy of it can appear. Returns who may be sent next.
    pub(crate) fn leave(&mut self, ticket: Ticket, is_certain: bool) -> Option<Ticket> {
        let place = self.claims.remove(&ticket)?;
        let slots = self.locks.get_mut(&place.key)?;
        slots.used.remove(&place.slot);
        if !is_certain {
            slots.burnt.insert(place.slot);
            self.withdrawn.insert(ticket);
        }
        let next = slots.waiting.front().copied();
        self.forget_if_idle(&place.key);
        next
    }

    fn forget_if_idle(&mut self, key: &LockKey) {
        if self
            .locks
            .get(key)
            .is_some_and(|it| it.used.is_empty() && it.burnt.is_empty() && it.waiting.is_empty())
        {
            self.locks.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::{Mode, Permit};

    fn claim(ticket: u64) -> Claim {
        Claim::new(LockKey::new("k").unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
    }

    #[test]
    fn a_slot_is_used_again_when_nothing_can_come_of_it() {
        let mut places = Places::default();
        assert_eq!(
            (places.enter(&claim(1)), places.enter(&claim(2)), places.enter(&claim(1))),
            (Entered::In(0), Entered::In(1), Entered::In(0))
        );
        places.leave(Ticket(1), true);
        places.leave(Ticket(2), false);
        assert_eq!(places.enter(&claim(2)), Entered::Withdrawn);
        assert_eq!((places.enter(&claim(3)), places.enter(&claim(4))), (Entered::In(0), Entered::In(2)));
    }

    #[test]
    fn those_who_are_too_many_wait_in_their_order() {
        let mut places = Places::default();
        let many = u64::try_from(CONTENDERS).unwrap();
        for ticket in 0..many + 3 {
            assert_eq!(places.enter(&claim(ticket)) != Entered::WaitsHere, ticket < many);
        }
        assert_eq!(places.leave(Ticket(0), true), Some(Ticket(many)));
        assert_eq!(places.enter(&claim(many + 1)), Entered::WaitsHere, "one came before");
        assert_eq!(places.enter(&claim(many + 9)), Entered::WaitsHere);
        assert_eq!(places.enter(&claim(many)), Entered::In(0));
        let key = LockKey::new("k").unwrap();
        let given_up = ClaimRef::new(key, Ticket(many + 1));
        assert!(
            places.give_up(&given_up, Certainty::Settled) && !places.give_up(&given_up, Certainty::Settled)
        );
        assert_eq!(places.leave(Ticket(1), true), Some(Ticket(many + 2)));
    }
}
