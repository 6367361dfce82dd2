//! [`Known`]: what a session remembers of its claims.

use std::collections::{HashMap, HashSet, VecDeque};

use lock_core::Ticket;

/// How many withdrawn claims are remembered here. Whoever still has a copy of one would have to send it after so many others.
const WITHDRAWN: usize = 4096;

/// A session's claims, as far as they may have to be given back.
///
/// A server takes the statements of one connection in their order. So a copy of a claim that was sent on a connection cannot come
/// behind a release that is sent there later: only on another one can it, and only there has the server to remember the release.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By key; with the lines on which a copy was sent that was not answered, and the latest of these.
    claims: HashMap<Vec<u8>, HashMap<Ticket, Vec<Copy>>>,
    copies: u64,
    withdrawn: HashSet<Ticket>,
    /// The same, the oldest first.
    in_order: VecDeque<Ticket>,
}

/// A claim as it was sent once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    line: u64,
    number: u64,
    /// No other was under way on its line.
    is_first: bool,
}

impl Known {
    pub(crate) fn sends(&mut self, key: &[u8], ticket: Ticket, line: u64) -> Copy {
        self.copies += 1;
        let copies = self.claims.entry(key.to_vec()).or_default().entry(ticket).or_default();
        let before = copies.len();
        copies.retain(|copy| copy.line != line);
        let copy = Copy { line, number: self.copies, is_first: copies.len() == before };
        copies.push(copy);
        copy
    }

    /// The server has dealt with this copy, and so it has with all before it on its line; not with those behind it.
    pub(crate) fn hears(&mut self, key: &[u8], ticket: Ticket, copy: Copy) {
        if let Some(copies) = self.claims.get_mut(key).and_then(|claims| claims.get_mut(&ticket)) {
            copies.retain(|other| *other != copy);
        }
    }

    /// It was not sent after all, which says nothing of those before it.
    pub(crate) fn never_sent(&mut self, key: &[u8], ticket: Ticket, copy: Copy) {
        if copy.is_first {
            self.hears(key, ticket, copy);
        }
    }

    /// Whether a copy may be on its way on another line than this one. Of a claim that is not known nobody knows.
    pub(crate) fn is_elsewhere(&self, key: &[u8], ticket: Ticket, line: u64) -> bool {
        let copies = self.claims.get(key).and_then(|claims| claims.get(&ticket));
        copies.is_none_or(|copies| copies.iter().any(|copy| copy.line != line))
    }

    /// It holds nothing, and waits for nothing. Copies that were never answered may still make that untrue.
    pub(crate) fn over(&mut self, key: &[u8], ticket: Ticket) {
        let copies = self.claims.get(key).and_then(|claims| claims.get(&ticket));
        if copies.is_some_and(Vec::is_empty) {
            self.forget(key, ticket);
        }
    }

    /// It was given back.
    pub(crate) fn forget(&mut self, key: &[u8], ticket: Ticket) {
        if let Some(tickets) = self.claims.get_mut(key) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    /// No copy of this claim is sent any more.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        if self.withdrawn.insert(ticket) {
            self.in_order.push_back(ticket);
        }
        while self.in_order.len() > WITHDRAWN {
            self.in_order.pop_front().map(|oldest| self.withdrawn.remove(&oldest));
        }
    }

    pub(crate) fn is_withdrawn(&self, ticket: Ticket) -> bool {
        self.withdrawn.contains(&ticket)
    }

    /// On which it has claims.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.claims.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_elsewhere_until_it_is_answered() {
        let (mut known, key, ticket) = (Known::default(), b"k", Ticket(1));
        assert!(known.is_elsewhere(key, ticket, 0), "nobody knows");
        known.sends(key, ticket, 0);
        assert!(!known.is_elsewhere(key, ticket, 0), "it comes before the release");
        assert!(known.is_elsewhere(key, ticket, 1));
        let second = known.sends(key, ticket, 1);
        known.hears(key, ticket, second);
        assert!(known.is_elsewhere(key, ticket, 1), "the first was never answered");
        known.over(key, ticket);
        let third = known.sends(key, ticket, 1);
        known.hears(key, ticket, third);
        assert!(known.is_elsewhere(key, ticket, 1), "nor is it now");
        known.forget(key, ticket);
        let fourth = known.sends(key, ticket, 1);
        known.hears(key, ticket, fourth);
        assert!(!known.is_elsewhere(key, ticket, 2), "it was answered");
        assert_eq!(known.keys(), [key]);
    }

    #[test]
    fn an_answer_to_one_copy_is_none_to_a_later_one() {
        let (mut known, key, ticket) = (Known::default(), b"k", Ticket(1));
        let (first, second) = (known.sends(key, ticket, 0), known.sends(key, ticket, 0));
        known.hears(key, ticket, first);
        assert!(known.is_elsewhere(key, ticket, 1), "the second is still under way");
        known.hears(key, ticket, second);
        assert!(!known.is_elsewhere(key, ticket, 1));
    }

    #[test]
    fn a_copy_that_was_never_sent_answers_for_no_other() {
        let (mut known, key, ticket) = (Known::default(), b"k", Ticket(1));
        let copy = known.sends(key, ticket, 0);
        known.never_sent(key, ticket, copy);
        assert!(!known.is_elsewhere(key, ticket, 1));
        known.sends(key, ticket, 1);
        let copy = known.sends(key, ticket, 1);
        known.never_sent(key, ticket, copy);
        assert!(known.is_elsewhere(key, ticket, 2), "the one before it may be on its way");
    }

    #[test]
    fn what_is_withdrawn_is_not_remembered_for_ever() {
        let mut known = Known::default();
        for number in 0..=WITHDRAWN as u64 {
            known.withdraw(Ticket(number));
            known.withdraw(Ticket(number));
        }
        assert!(!known.is_withdrawn(Ticket(0)) && known.is_withdrawn(Ticket(1)));
        assert_eq!(known.withdrawn.len(), WITHDRAWN);
    }
}
