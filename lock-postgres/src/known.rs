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
    /// By key; with the lines on which a copy was sent that was not answered.
    claims: HashMap<Vec<u8>, HashMap<Ticket, Vec<u64>>>,
    withdrawn: HashSet<Ticket>,
    /// The same, the oldest first.
    in_order: VecDeque<Ticket>,
}

impl Known {
    pub(crate) fn sends(&mut self, key: &[u8], ticket: Ticket, line: u64) {
        let lines = self.claims.entry(key.to_vec()).or_default().entry(ticket).or_default();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }

    /// The latest copy was answered, and so were all before it on its line.
    pub(crate) fn hears(&mut self, key: &[u8], ticket: Ticket) {
        if let Some(lines) = self.claims.get_mut(key).and_then(|claims| claims.get_mut(&ticket)) {
            lines.pop();
        }
    }

    /// Whether a copy may be on its way on another line than this one. Of a claim that is not known nobody knows.
    pub(crate) fn is_elsewhere(&self, key: &[u8], ticket: Ticket, line: u64) -> bool {
        let lines = self.claims.get(key).and_then(|claims| claims.get(&ticket));
        lines.is_none_or(|lines| lines.iter().any(|other| *other != line))
    }

    pub(crate) fn gone(&mut self, key: &[u8], ticket: Ticket) {
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
        known.sends(key, ticket, 1);
        known.hears(key, ticket);
        assert!(known.is_elsewhere(key, ticket, 1), "the first was never answered");
        known.gone(key, ticket);
        known.sends(key, ticket, 1);
        known.hears(key, ticket);
        assert!(!known.is_elsewhere(key, ticket, 2), "it was answered");
        assert_eq!(known.keys(), [key]);
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
