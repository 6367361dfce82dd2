//! [`Places`]: which names a session's claims have, and how they stand as far as it knows.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use lock_core::queue::{Contenders, Withdrawn};
use lock_core::{BootTime, Certainty, Claim, ClaimRef, LockKey, Term, Ticket};

use crate::ahead::Ahead;

/// How many of one session's claims of one lock wait in the store at once. Thousands at once have timed out there; the others wait
/// here, in their order. Those that hold are no contenders any more, or a lock with more room than this could never be filled.
pub(crate) const CONTENDERS: usize = 64;

/// What holds for a fixed time is the holder's own affair, and is never given back here. It is known for so long at most, for
/// whoever asks again or gives it up at once.
const KNOWN: Duration = Duration::from_secs(60);

/// A session's claims.
///
/// Invariant: a slot is used again only when no copy of a claim in it can be on its way. So what is under a name belongs to the
/// ticket that has the slot.
#[derive(Debug)]
pub(crate) struct Places {
    claims: HashMap<Ticket, Place>,
    /// Their names in the store are forbidden there as well.
    withdrawn: Withdrawn,
    contenders: Contenders,
    locks: HashMap<LockKey, Slots>,
    /// What holds for a fixed time, and until when it is known here.
    detached: BTreeSet<(BootTime, Ticket)>,
}

/// One claim's place.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) key: LockKey,
    pub(crate) slot: Slot,
    pub(crate) stands: Stands,
    pub(crate) at_least: Duration,
    /// What it waits for.
    pub(crate) ahead: Option<Ahead>,
    /// Since when it has been seen as the first that waits.
    pub(crate) first_since: Option<BootTime>,
    /// Requests that may make it and were not answered: each may still arrive.
    unanswered: u32,
    /// A deletion of whatever is under its name was sent, and may still arrive unless it was answered.
    pub(crate) may_be_deleted: bool,
}

/// What tells a claim's name from those of the session's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Used again by others.
    Again(u32),
    /// For this claim only: it holds for a fixed time, does not end with its session, and nobody here hears when it has gone.
    Once(Ticket),
}

/// Whether a claim may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// In this slot.
    In(Slot),
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
}

impl Default for Places {
    fn default() -> Places {
        Places {
            claims: HashMap::new(),
            withdrawn: Withdrawn::default(),
            contenders: Contenders::at_most(CONTENDERS),
            locks: HashMap::new(),
            detached: BTreeSet::new(),
        }
    }
}

impl Places {
    /// A claim is about to be sent.
    pub(crate) fn enter(&mut self, claim: &Claim) -> Entered {
        if self.withdrawn.contains(claim.ticket) {
            return Entered::Withdrawn;
        }
        if let Some(place) = self.claims.get(&claim.ticket) {
            return Entered::In(place.slot);
        }
        if !self.contenders.enter(&claim.key, claim.ticket, claim.wait) {
            return Entered::WaitsHere;
        }
        let slot = if let Term::Fixed(_) = claim.term {
            Slot::Once(claim.ticket)
        } else {
            let slots = self.locks.entry(claim.key.clone()).or_default();
            let taken = |slot: &u32| slots.used.contains(slot) || slots.burnt.contains(slot);
            let slot = (0..).find(|slot| !taken(slot)).unwrap_or(u32::MAX);
            slots.used.insert(slot);
            Slot::Again(slot)
        };
        let at_least = match claim.term {
            Term::Session { at_least } => at_least,
            _ => Duration::ZERO,
        };
        let place = Place {
            key: claim.key.clone(),
            slot,
            stands: Stands::Unknown,
            at_least,
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

    /// The claim that was made at this revision holds, now or since before. Returns who may be sent in its place.
    pub(crate) fn holds(&mut self, ticket: Ticket, revision: i64, now: BootTime) -> Option<Ticket> {
        let place = self.claims.get_mut(&ticket)?;
        (place.ahead, place.first_since) = (None, None);
        let is_new = !matches!(place.stands, Stands::Holds(..));
        let (key, is_known) = (place.key.clone(), !place.is_detached() || place.unanswered > 0);
        if is_new {
            place.stands = Stands::Holds(revision, now);
        }
        if !is_new {
            return None;
        }
        let next = self.contenders.leave(&key);
        if !is_known {
            self.detached.insert((now + KNOWN, ticket));
            self.forget_detached(now);
        }
        next
    }

    /// The claim is not in the store any more, and is to be made anew.
    pub(crate) fn has_gone(&mut self, ticket: Ticket) {
        let Some(place) = self.claims.get_mut(&ticket) else { return };
        // What it waited for, it waited for in its old place.
        (place.ahead, place.first_since) = (None, None);
        if let Stands::Holds(..) = std::mem::replace(&mut place.stands, Stands::Unknown) {
            self.contenders.contend_again(&place.key);
        }
    }

    /// Whether a claim waits here, and has never been sent.
    pub(crate) fn waits_here(&self, key: &LockKey, ticket: Ticket) -> bool {
        self.contenders.waits_here(key, ticket)
    }

    /// Who may be sent next of those who wait here: whoever is told in vain is told again when another place is left.
    pub(crate) fn next(&self, key: &LockKey) -> Option<Ticket> {
        self.contenders.next(key)
    }

    /// A claim that was never sent is given back; whether it waited here.
    pub(crate) fn give_up(&mut self, claim: &ClaimRef, certainty: Certainty) -> bool {
        let (key, ticket) = (&claim.key, claim.ticket);
        if certainty == Certainty::MaybeInFlight {
            self.withdraw(ticket);
        }
        self.contenders.give_up(key, ticket)
    }

    /// Nothing of this claim is in the store any more.
    pub(crate) fn leave(&mut self, ticket: Ticket, remains: Remains) {
        let Some(place) = self.claims.remove(&ticket) else { return };
        if remains == Remains::Copy {
            self.withdraw(ticket);
        }
        if !matches!(place.stands, Stands::Holds(..)) {
            self.contenders.leave(&place.key);
        }
        if let Slot::Again(slot) = place.slot
            && let Some(slots) = self.locks.get_mut(&place.key)
        {
            slots.used.remove(&slot);
            if remains != Remains::Nothing {
                slots.burnt.insert(slot);
            }
            if slots.used.is_empty() && slots.burnt.is_empty() {
                self.locks.remove(&place.key);
            }
        }
    }

    /// Nothing may come of this ticket any more, whoever asks.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        self.withdrawn.insert(ticket);
    }

    fn forget_detached(&mut self, now: BootTime) {
        while let Some(&(until, ticket)) = self.detached.first().filter(|(until, _)| *until <= now) {
            self.detached.remove(&(until, ticket));
            // Unless it has gone, and waits again.
            if self.claims.get(&ticket).is_some_and(|place| matches!(place.stands, Stands::Holds(..))) {
                self.leave(ticket, Remains::Nothing);
            }
        }
    }
}

impl Place {
    fn is_detached(&self) -> bool {
        matches!(self.slot, Slot::Once(_))
    }

    /// Whether it has a lease of its own when it holds.
    pub(crate) fn is_timed(&self) -> bool {
        self.is_detached() || !self.at_least.is_zero()
    }

    /// Whether news of what it waits for can come.
    pub(crate) fn is_heard(&self) -> bool {
        self.ahead.as_ref().is_some_and(Ahead::is_alive)
    }

    /// Whether it is the first that waits by now, and has not looked since: whoever is the first tells the holders.
    pub(crate) fn has_become_first(&self) -> bool {
        self.first_since.is_none() && self.ahead.as_ref().is_some_and(Ahead::is_first)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Again(number) => write!(f, "{number:x}"),
            Slot::Once(ticket) => write!(f, "t{:x}", ticket.0),
        }
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

    fn slot(number: u32) -> Entered {
        Entered::In(Slot::Again(number))
    }

    #[test]
    fn a_slot_is_used_again_when_nothing_can_come_of_it() {
        let mut places = Places::default();
        assert_eq!(
            (places.enter(&claim(1)), places.enter(&claim(2)), places.enter(&claim(1))),
            (slot(0), slot(1), slot(0))
        );
        places.leave(Ticket(1), Remains::Nothing);
        places.leave(Ticket(2), Remains::Copy);
        assert_eq!(places.enter(&claim(2)), Entered::Withdrawn);
        assert_eq!((places.enter(&claim(3)), places.enter(&claim(4))), (slot(0), slot(2)));
        places.leave(Ticket(3), Remains::Deletion);
        assert_eq!(places.enter(&claim(5)), slot(3));
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
        assert_eq!(places.enter(&claim(many)), slot(0));
        let given_up = ClaimRef::new(key(), Ticket(many + 1));
        assert!(
            places.give_up(&given_up, Certainty::Settled) && !places.give_up(&given_up, Certainty::Settled)
        );
        places.leave(Ticket(1), Remains::Nothing);
        assert_eq!(places.next(&key()), Some(Ticket(many + 2)));
    }

    #[test]
    fn whoever_holds_is_no_contender() {
        let (mut places, now) = (Places::default(), BootTime::from_nanos(0));
        let many = u64::try_from(CONTENDERS).unwrap();
        for ticket in 0..many + 1 {
            places.enter(&claim(ticket));
        }
        assert_eq!(places.holds(Ticket(0), 1, now), Some(Ticket(many)));
        assert_eq!(places.holds(Ticket(0), 1, now), None, "told once");
        assert_eq!(places.enter(&claim(many)), slot(64));
        // It is ended by force, and made anew.
        places.has_gone(Ticket(0));
        places.leave(Ticket(1), Remains::Nothing);
        assert_eq!(places.enter(&claim(many + 1)), Entered::WaitsHere);
        for ticket in 0..many + 1 {
            places.leave(Ticket(ticket), Remains::Nothing);
        }
        places.give_up(&ClaimRef::new(key(), Ticket(many + 1)), Certainty::Settled);
        assert!(
            places.locks.is_empty() && places.contenders.are_none() && places.claims.is_empty(),
            "{places:?}"
        );
    }

    #[test]
    fn what_holds_for_a_fixed_time_is_forgotten() {
        let mut places = Places::default();
        for ticket in 0..1_000 {
            let now = BootTime::from_nanos(0) + KNOWN * u32::try_from(ticket).unwrap();
            places.enter(&claim(ticket).term(Term::Fixed(KNOWN * 9)));
            places.holds(Ticket(ticket), 1, now);
        }
        assert!(places.claims.len() < 3 && places.locks.len() < 2, "{places:?}");
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
