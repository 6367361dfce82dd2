//! [`Queue`]: the claims of one lock in the order of their making, and the one rule that grants.
//!
//! A claim holds when the weights of all before it and its own fit the capacity. As none can come in before another, who holds
//! goes on holding for as long as its key is there; the order of the keys' making is the order of the grants, and the revision
//! of its making is a claim's token.

use lock_core::Permit;

use crate::entry::{Entry, Kind};

/// The claims of a lock at one revision of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    entries: Vec<Entry>,
}

/// What a waiter has to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// This key has to go.
    Key {
        name: String,
        /// Nothing else is in the way, and nothing takes its place: the end of it is the grant.
        is_all: bool,
    },
    /// Several could go, any of them: those before it, with their weights, and how much of them has to go.
    Any { before: Vec<(String, u32)>, surplus: u64 },
}

impl Queue {
    /// Of entries in any order. A companion stands for its claim only when that has gone.
    pub(crate) fn new(mut entries: Vec<Entry>) -> Queue {
        entries.sort_by(|a, b| (a.revision, &a.name).cmp(&(b.revision, &b.name)));
        let names: std::collections::HashSet<String> =
            entries.iter().filter(|entry| entry.kind != Kind::Kept).map(|entry| entry.name.clone()).collect();
        entries.retain(|entry| entry.kind != Kind::Kept || !names.contains(entry.name.trim_end_matches('~')));
        Queue { entries }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.name == name)
    }

    /// Whether the claim in this place holds.
    pub(crate) fn holds(&self, place: usize) -> bool {
        let entry = &self.entries[place];
        self.weight_before(place) + u64::from(entry.permit.weight()) <= u64::from(entry.permit.capacity())
    }

    /// How many of them hold: the first ones.
    pub(crate) fn holders(&self) -> usize {
        (0..self.entries.len()).take_while(|&place| self.holds(place)).count()
    }

    /// Whether another claim would hold behind all that there are.
    pub(crate) fn has_room_for(&self, permit: Permit) -> bool {
        self.weight_before(self.entries.len()) + u64::from(permit.weight()) <= u64::from(permit.capacity())
    }

    /// The capacity by which the lock is in use, if another one was asked for.
    pub(crate) fn other_capacity(&self, place: Option<usize>, permit: Permit) -> Option<u32> {
        let before = &self.entries[..place.unwrap_or(self.entries.len())];
        before.first().map(|entry| entry.permit.capacity()).filter(|&capacity| capacity != permit.capacity())
    }

    /// What is in the way of a claim that does not hold.
    pub(crate) fn obstacle(&self, place: usize) -> Obstacle {
        let (before, own) = (&self.entries[..place], &self.entries[place]);
        let capacity = u64::from(own.permit.capacity());
        let excludes =
            |entry: &&Entry| u64::from(entry.permit.weight()) + u64::from(own.permit.weight()) > capacity;
        match before.iter().rev().find(excludes) {
            Some(entry) => Obstacle::Key {
                name: entry.name.clone(),
                is_all: before.len() == 1 && entry.kind != Kind::AtLeast && own.kind == Kind::Session,
            },
            None => Obstacle::Any {
                before: before.iter().map(|entry| (entry.name.clone(), entry.permit.weight())).collect(),
                surplus: self.weight_before(place) + u64::from(own.permit.weight()) - capacity,
            },
        }
    }

    fn weight_before(&self, place: usize) -> u64 {
        self.entries[..place].iter().map(|entry| u64::from(entry.permit.weight())).sum()
    }
}
