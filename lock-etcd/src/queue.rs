//! [`Queue`]: the claims of one lock in the order of their making, and what is in the way of one of them.
//!
//! The order of the keys' making is the order of the grants, and the revision of its making is a claim's token.

use std::collections::HashSet;

use lock_core::queue::{self, Entry as _};
use lock_core::{Permit, SessionId};

use crate::entry::{Entry, Kind};

/// The claims of a lock at one revision of the store.
pub(crate) type Queue = queue::Queue<Entry>;

/// What is in the way of a claim that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// What of it counts, each with its weight, in their order.
    pub(crate) before: Vec<(String, u32)>,
    /// How much of that has to go.
    pub(crate) surplus: u64,
    /// The first of them hold, as many as fit this; zero, where that cannot be told.
    pub(crate) capacity: u64,
    /// Whether that is the grant: nothing else is before the claim, nothing takes the place of what goes, and the grant needs no
    /// further step.
    pub(crate) grants: bool,
}

impl queue::Entry for Entry {
    fn session(&self) -> SessionId {
        self.session
    }

    fn permit(&self) -> Permit {
        self.permit
    }
}

/// Of entries in any order. A companion stands for its claim only when that has gone.
pub(crate) fn in_order(mut entries: Vec<Entry>) -> Queue {
    entries.sort_by(|a, b| (a.revision, &a.name).cmp(&(b.revision, &b.name)));
    let claims: HashSet<(String, i64)> = entries
        .iter()
        .filter(|entry| entry.kind != Kind::Kept)
        .map(|entry| (entry.name.clone(), entry.revision))
        .collect();
    entries.retain(|entry| {
        entry.kind != Kind::Kept || !claims.contains(&(entry.claim().to_owned(), entry.revision))
    });
    Queue::new(entries)
}

pub(crate) fn place_of(queue: &Queue, name: &str) -> Option<usize> {
    queue.entries().iter().position(|entry| entry.name == name)
}

/// What is in the way of a claim that does not hold: all before it.
pub(crate) fn obstacle(queue: &Queue, place: usize) -> Obstacle {
    let (before, own) = (&queue.entries()[..place], &queue.entries()[place]);
    // Nobody holds behind a claim of another capacity, which is being refused and will go.
    let others = before.iter().filter(|entry| entry.permit.capacity() != own.permit.capacity());
    let others: Vec<_> = others.map(|entry| (entry.name.clone(), 1)).collect();
    if !others.is_empty() {
        let surplus = u64::try_from(others.len()).unwrap_or(u64::MAX);
        return Obstacle { before: others, surplus, capacity: 0, grants: false };
    }
    let weight = queue.weight_before(place) + u64::from(own.permit().weight());
    Obstacle {
        before: before.iter().map(|entry| (entry.name.clone(), entry.permit.weight())).collect(),
        surplus: weight.saturating_sub(u64::from(own.permit.capacity())),
        capacity: u64::from(own.permit.capacity()),
        grants: own.kind == Kind::Session && before.iter().all(|entry| entry.kind != Kind::AtLeast),
    }
}

/// The last one before it that it cannot hold beside, if there is one, as what is in its way.
pub(crate) fn excluder(queue: &Queue, place: usize) -> Option<(String, Obstacle)> {
    let name = &queue.entries()[queue.excluder(place)?].name;
    let before = vec![(name.clone(), 1)];
    let grants = place == 1 && obstacle(queue, place).grants;
    Some((name.clone(), Obstacle { before, surplus: 1, capacity: 0, grants }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::{Mode, SessionId, Ticket};

    fn entry(revision: i64, permit: Permit, kind: Kind) -> Entry {
        Entry {
            name: format!("k/{revision}{}", if kind == Kind::Kept { "~1" } else { "" }),
            revision,
            lease: 1,
            session: SessionId::from_u128(1),
            ticket: Ticket(1),
            permit,
            mode: Mode::Exclusive,
            kind,
            note: None,
            info: None,
        }
    }

    fn queue(permits: &[Permit]) -> Queue {
        let made = permits.iter().zip(1..);
        let mut entries: Vec<_> =
            made.map(|(permit, revision)| entry(revision, *permit, Kind::Session)).collect();
        entries.reverse();
        in_order(entries)
    }

    #[test]
    fn the_weights_of_all_before_decide() {
        let of_three = |weight| Permit::new(weight, 3).unwrap();
        let queue = queue(&[of_three(1), of_three(1), of_three(2), of_three(1)]);
        assert_eq!(queue.holders(), 2);
        assert!(!queue.has_room_for(of_three(1)), "nobody overtakes");
        let found = obstacle(&queue, 2);
        assert_eq!((found.surplus, found.before.len(), found.grants), (1, 2, true));
        assert_eq!(obstacle(&queue, 3).surplus, 2);
    }

    #[test]
    fn whoever_excludes_is_waited_for_alone() {
        let queue = queue(&[Permit::READER, Permit::WRITER, Permit::READER, Permit::READER]);
        assert_eq!(queue.holders(), 1);
        for reader in [2, 3] {
            let (name, obstacle) = excluder(&queue, reader).unwrap();
            assert_eq!((name.as_str(), obstacle.grants), ("k/2", false), "there are others before it");
        }
        let (name, obstacle) = excluder(&queue, 1).unwrap();
        assert_eq!((name.as_str(), obstacle.grants), ("k/1", true));
    }

    /// One that asked by another capacity, and has not been taken back yet.
    #[test]
    fn nobody_holds_behind_another_capacity() {
        let of_five = Permit::new(1, 5).unwrap();
        let queue = queue(&[of_five, Permit::MUTEX, of_five]);
        assert_eq!((queue.holders(), queue.has_room_for(of_five)), (1, false));
        assert!(!queue.holds(2), "if the first goes, the mutex is next");
        let found = obstacle(&queue, 2);
        assert_eq!((found.before[0].0.as_str(), found.grants), ("k/2", false));
        assert_eq!(excluder(&queue, 2).unwrap().0, "k/2");
    }

    #[test]
    fn a_companion_stands_for_its_claim_when_that_has_gone() {
        let (claim, companion) =
            (entry(5, Permit::MUTEX, Kind::AtLeast), entry(5, Permit::MUTEX, Kind::Kept));
        let waiter = entry(9, Permit::MUTEX, Kind::Session);
        let queue = in_order(vec![waiter.clone(), companion.clone(), claim.clone()]);
        assert_eq!(queue.entries(), [claim, waiter.clone()]);
        assert!(
            !obstacle(&queue, 1).grants && !excluder(&queue, 1).unwrap().1.grants,
            "its companion takes its place"
        );
        let next_in_its_slot = Entry { name: "k/5".into(), ..waiter };
        let queue = in_order(vec![next_in_its_slot.clone(), companion.clone()]);
        assert_eq!(queue.entries(), [companion, next_in_its_slot]);
    }
}
