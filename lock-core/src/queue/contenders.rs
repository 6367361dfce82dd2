//! [`Contenders`]: how many of one session's claims of one lock wait in the store at once.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::backend::Ticket;
use crate::key::LockKey;

/// So many tickets of which nothing may come are remembered. Of one that is older nobody asks any more.
const WITHDRAWN: usize = 100_000;

/// How many of one session's claims of each lock wait in the store at once; the others wait here, in their order.
///
/// Every claim that waits in a store is seen by every other one, so that thousands of them are a burden to each other. Those that
/// hold are no contenders any more, or a lock with more room than this could never be filled.
#[derive(Debug)]
pub struct Contenders {
    most: usize,
    locks: HashMap<LockKey, Lock>,
}

#[derive(Debug, Default)]
struct Lock {
    /// How many are in the store, or on their way there, and do not hold as far as is known.
    contending: usize,
    waiting: VecDeque<Ticket>,
}

impl Contenders {
    /// So many at most, of each lock.
    pub fn at_most(most: usize) -> Contenders {
        Contenders { most, locks: HashMap::new() }
    }

    /// Whether a claim may be sent now. Otherwise it waits here, if it is to wait: those who came before go first.
    pub fn enter(&mut self, key: &LockKey, ticket: Ticket, waits: bool) -> bool {
        let most = self.most;
        let lock = self.locks.entry(key.clone()).or_default();
        let is_next = lock.waiting.iter().position(|other| *other == ticket);
        let may_be_sent = is_next.unwrap_or(lock.waiting.len()) < lock.free(most);
        match is_next {
            Some(place) if may_be_sent => drop(lock.waiting.remove(place)),
            None if !may_be_sent && waits => lock.waiting.push_back(ticket),
            _ => {}
        }
        if may_be_sent {
            lock.contending += 1;
        }
        self.forget_if_idle(key);
        may_be_sent
    }

    /// One that was sent holds, or has left. Returns who may be sent in its place.
    pub fn leave(&mut self, key: &LockKey) -> Option<Ticket> {
        if let Some(lock) = self.locks.get_mut(key) {
            lock.contending = lock.contending.saturating_sub(1);
        }
        let next = self.next(key);
        self.forget_if_idle(key);
        next
    }

    /// One that held is to be made anew.
    pub fn contend_again(&mut self, key: &LockKey) {
        self.locks.entry(key.clone()).or_default().contending += 1;
    }

    /// One that was never sent is given up; whether it waited here.
    pub fn give_up(&mut self, key: &LockKey, ticket: Ticket) -> bool {
        let Some(lock) = self.locks.get_mut(key) else { return false };
        let before = lock.waiting.len();
        lock.waiting.retain(|other| *other != ticket);
        let gave_up = lock.waiting.len() < before;
        self.forget_if_idle(key);
        gave_up
    }

    /// Whether a claim waits here, and has never been sent.
    pub fn waits_here(&self, key: &LockKey, ticket: Ticket) -> bool {
        self.locks.get(key).is_some_and(|lock| lock.waiting.contains(&ticket))
    }

    /// Who may be sent next of those who wait here: whoever is told in vain is told again when another place is left.
    pub fn next(&self, key: &LockKey) -> Option<Ticket> {
        let lock = self.locks.get(key)?;
        if lock.free(self.most) > 0 { lock.waiting.front().copied() } else { None }
    }

    /// Whether nobody contends for any lock.
    pub fn are_none(&self) -> bool {
        self.locks.is_empty()
    }

    fn forget_if_idle(&mut self, key: &LockKey) {
        if self.locks.get(key).is_some_and(|lock| lock.contending == 0 && lock.waiting.is_empty()) {
            self.locks.remove(key);
        }
    }
}

impl Lock {
    fn free(&self, most: usize) -> usize {
        most.saturating_sub(self.contending)
    }
}

/// Tickets of one session of which nothing may come any more, whoever asks.
#[derive(Debug, Default)]
pub struct Withdrawn(BTreeSet<Ticket>);

impl Withdrawn {
    /// Remembers one.
    pub fn insert(&mut self, ticket: Ticket) {
        self.0.insert(ticket);
        if self.0.len() > WITHDRAWN {
            self.0.pop_first();
        }
    }

    /// Whether it is one of them.
    pub fn contains(&self, ticket: Ticket) -> bool {
        self.0.contains(&ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LockKey {
        LockKey::new("k").unwrap()
    }

    #[test]
    fn those_who_are_too_many_wait_in_their_order() {
        let mut contenders = Contenders::at_most(4);
        for ticket in 0..7 {
            assert_eq!(contenders.enter(&key(), Ticket(ticket), true), ticket < 4);
        }
        assert_eq!(contenders.next(&key()), None);
        assert_eq!(contenders.leave(&key()), Some(Ticket(4)));
        assert!(!contenders.enter(&key(), Ticket(5), true), "one came before");
        assert!(!contenders.enter(&key(), Ticket(9), false) && !contenders.waits_here(&key(), Ticket(9)));
        assert!(contenders.enter(&key(), Ticket(4), true));
        assert!(contenders.give_up(&key(), Ticket(5)) && !contenders.give_up(&key(), Ticket(5)));
        assert_eq!(contenders.leave(&key()), Some(Ticket(6)));
    }

    #[test]
    fn whoever_holds_is_no_contender() {
        let mut contenders = Contenders::at_most(2);
        assert!(contenders.enter(&key(), Ticket(0), true) && contenders.enter(&key(), Ticket(1), true));
        assert_eq!(contenders.leave(&key()), None, "the first holds");
        assert!(contenders.enter(&key(), Ticket(2), true));
        contenders.contend_again(&key());
        contenders.leave(&key());
        assert!(!contenders.enter(&key(), Ticket(3), true));
        contenders.leave(&key());
        contenders.leave(&key());
        contenders.give_up(&key(), Ticket(3));
        assert!(contenders.are_none(), "{contenders:?}");
    }
}
