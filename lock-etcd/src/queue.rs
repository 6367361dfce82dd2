//! [`Queue`]: the claims of one lock in the order of their making, and the one rule that grants.
//!
//! A claim holds when the weights of all before it and its own fit the capacity. As none can come in before another, who holds
//! goes on holding for as long as its key is there; the order of the keys' making is the order of the grants, and the revision
//! of its making is a claim's token.

use std::collections::HashSet;

use lock_core::Permit;

use crate::entry::{Entry, Kind};

/// The claims of a lock at one revision of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    entries: Vec<Entry>,
}

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

impl Queue {
    /// Of entries in any order. A companion stands for its claim only when that has gone.
    pub(crate) fn new(mut entries: Vec<Entry>) -> Queue {
        entries.sort_by(|a, b| (a.revision, &a.name).cmp(&(b.revision, &b.name)));
        let claims: HashSet<(String, i64)> = entries
            .iter()
            .filter(|entry| entry.kind != Kind::Kept)
            .map(|entry| (entry.name.clone(), entry.revision))
            .collect();
        entries.retain(|entry| {
            entry.kind != Kind::Kept || !claims.contains(&(entry.claim().to_owned(), entry.revision))
        });
        Queue { entries }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.name == name)
    }

    /// Whether the claim in this place holds. Weights of another capacity mean something else: where one is before it, it does not.
    pub(crate) fn holds(&self, place: usize) -> bool {
        self.fits(place, self.entries[place].permit)
    }

    /// How many of them hold: the first ones.
    pub(crate) fn holders(&self) -> usize {
        (0..self.entries.len()).take_while(|&place| self.holds(place)).count()
    }

    /// Whether another claim would hold behind all that there are.
    pub(crate) fn has_room_for(&self, permit: Permit) -> bool {
        self.fits(self.entries.len(), permit)
    }

    /// The capacity by which the lock is in use, if another one was asked for.
    pub(crate) fn other_capacity(&self, place: Option<usize>, permit: Permit) -> Option<u32> {
        let before = &self.entries[..place.unwrap_or(self.entries.len())];
        before.first().map(|entry| entry.permit.capacity()).filter(|&capacity| capacity != permit.capacity())
    }

    /// Of how many sessions there are claims.
    pub(crate) fn sessions(&self) -> usize {
        self.entries.iter().map(|entry| entry.session).collect::<HashSet<_>>().len()
    }

    /// What is in the way of a claim that does not hold: all before it.
    pub(crate) fn obstacle(&self, place: usize) -> Obstacle {
        let (before, own) = (&self.entries[..place], &self.entries[place]);
        // Nobody holds behind a claim of another capacity, which is being refused and will go.
        let others = before.iter().filter(|entry| entry.permit.capacity() != own.permit.capacity());
        let others: Vec<_> = others.map(|entry| (entry.name.clone(), 1)).collect();
        if !others.is_empty() {
            let surplus = u64::try_from(others.len()).unwrap_or(u64::MAX);
            return Obstacle { before: others, surplus, capacity: 0, grants: false };
        }
        let weight = self.weight_before(place) + u64::from(own.permit.weight());
        Obstacle {
            before: before.iter().map(|entry| (entry.name.clone(), entry.permit.weight())).collect(),
            surplus: weight.saturating_sub(u64::from(own.permit.capacity())),
            capacity: u64::from(own.permit.capacity()),
            grants: own.kind == Kind::Session && before.iter().all(|entry| entry.kind != Kind::AtLeast),
        }
    }

    /// The last one before it that it cannot hold beside, if there is one: until that has gone nothing changes for it.
    pub(crate) fn excluder(&self, place: usize) -> Option<(String, Obstacle)> {
        let (before, own) = (&self.entries[..place], &self.entries[place]);
        let capacity = u64::from(own.permit.capacity());
        let excludes = |entry: &&Entry| {
            u64::from(entry.permit.weight()) + u64::from(own.permit.weight()) > capacity
                || entry.permit.capacity() != own.permit.capacity()
        };
        let name = &before.iter().rev().find(excludes)?.name;
        let before = vec![(name.clone(), 1)];
        let grants = place == 1 && self.obstacle(place).grants;
        Some((name.clone(), Obstacle { before, surplus: 1, capacity: 0, grants }))
    }

    fn fits(&self, place: usize, permit: Permit) -> bool {
        self.weight_before(place) + u64::from(permit.weight()) <= u64::from(permit.capacity())
            && self.entries[..place].iter().all(|entry| entry.permit.capacity() == permit.capacity())
    }

    fn weight_before(&self, place: usize) -> u64 {
        self.entries[..place].iter().map(|entry| u64::from(entry.permit.weight())).sum()
    }
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
        Queue::new(entries)
    }

    #[test]
    fn the_weights_of_all_before_decide() {
        let of_three = |weight| Permit::new(weight, 3).unwrap();
        let queue = queue(&[of_three(1), of_three(1), of_three(2), of_three(1)]);
        assert_eq!(queue.holders(), 2);
        assert!(!queue.has_room_for(of_three(1)), "nobody overtakes");
        let obstacle = queue.obstacle(2);
        assert_eq!((obstacle.surplus, obstacle.before.len(), obstacle.grants), (1, 2, true));
        assert_eq!(queue.obstacle(3).surplus, 2);
    }

    #[test]
    fn whoever_excludes_is_waited_for_alone() {
        let queue = queue(&[Permit::READER, Permit::WRITER, Permit::READER, Permit::READER]);
        assert_eq!(queue.holders(), 1);
        for reader in [2, 3] {
            let (name, obstacle) = queue.excluder(reader).unwrap();
            assert_eq!((name.as_str(), obstacle.grants), ("k/2", false), "there are others before it");
        }
        let (name, obstacle) = queue.excluder(1).unwrap();
        assert_eq!((name.as_str(), obstacle.grants), ("k/1", true));
    }

    /// One that asked by another capacity, and has not been taken back yet.
    #[test]
    fn nobody_holds_behind_another_capacity() {
        let of_five = Permit::new(1, 5).unwrap();
        let queue = queue(&[of_five, Permit::MUTEX, of_five]);
        assert_eq!((queue.holders(), queue.has_room_for(of_five)), (1, false));
        assert!(!queue.holds(2), "if the first goes, the mutex is next");
        let obstacle = queue.obstacle(2);
        assert_eq!((obstacle.before[0].0.as_str(), obstacle.grants), ("k/2", false));
        assert_eq!(queue.excluder(2).unwrap().0, "k/2");
    }

    #[test]
    fn a_companion_stands_for_its_claim_when_that_has_gone() {
        let (claim, companion) =
            (entry(5, Permit::MUTEX, Kind::AtLeast), entry(5, Permit::MUTEX, Kind::Kept));
        let waiter = entry(9, Permit::MUTEX, Kind::Session);
        let queue = Queue::new(vec![waiter.clone(), companion.clone(), claim.clone()]);
        assert_eq!(queue.entries(), [claim, waiter.clone()]);
        assert!(
            !queue.obstacle(1).grants && !queue.excluder(1).unwrap().1.grants,
            "its companion takes its place"
        );
        let next_in_its_slot = Entry { name: "k/5".into(), ..waiter };
        let queue = Queue::new(vec![next_in_its_slot.clone(), companion.clone()]);
        assert_eq!(queue.entries(), [companion, next_in_its_slot]);
    }
}
