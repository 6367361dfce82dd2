//! For stores whose own order is the queue: each claim is an entry of its own, and the store says which came first.
//!
//! [`Queue`] has the one rule that grants, [`Contenders`] keeps one session from being too many of them, and [`wishes`] are what
//! those who wait tell those who hold.

mod contenders;
pub mod wishes;

use std::collections::HashSet;

pub use self::contenders::{Contenders, Withdrawn};
use crate::backend::SessionId;
use crate::mode::Permit;

/// One claim in the queue of its lock.
pub trait Entry {
    /// Whose claim it is.
    fn session(&self) -> SessionId;

    /// How much of the capacity it takes.
    fn permit(&self) -> Permit;
}

/// The claims of one lock, in the store's order.
///
/// A claim holds when the weights of all before it and its own fit the capacity. As none can come in before another, who holds
/// goes on holding for as long as its entry is there; and the order of the entries is the order of the grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue<E> {
    entries: Vec<E>,
}

impl<E: Entry> Queue<E> {
    /// Of entries that are in order.
    pub fn new(entries: Vec<E>) -> Queue<E> {
        Queue { entries }
    }

    /// All of them, in order.
    pub fn entries(&self) -> &[E] {
        &self.entries
    }

    /// Whether the claim in this place, which has to be there, holds. Weights of another capacity mean something else: where one
    /// is before it, it does not.
    pub fn holds(&self, place: usize) -> bool {
        self.fits(place, self.entries[place].permit())
    }

    /// How many of them hold: the first ones.
    pub fn holders(&self) -> usize {
        (0..self.entries.len()).take_while(|&place| self.holds(place)).count()
    }

    /// Whether another claim would hold behind all that there are.
    pub fn has_room_for(&self, permit: Permit) -> bool {
        self.fits(self.entries.len(), permit)
    }

    /// The capacity by which the lock is in use, if another one was asked for: in this place, or behind all.
    pub fn other_capacity(&self, place: Option<usize>, permit: Permit) -> Option<u32> {
        let before = &self.entries[..place.unwrap_or(self.entries.len())];
        before
            .first()
            .map(|entry| entry.permit().capacity())
            .filter(|&capacity| capacity != permit.capacity())
    }

    /// Of how many sessions there are claims.
    pub fn sessions(&self) -> usize {
        self.entries.iter().map(Entry::session).collect::<HashSet<_>>().len()
    }

    /// The place of the last one before it that the claim in this place cannot hold beside, if there is one: until that has gone
    /// nothing changes for it.
    pub fn excluder(&self, place: usize) -> Option<usize> {
        let own = self.entries[place].permit();
        let (weight, capacity) = (u64::from(own.weight()), u64::from(own.capacity()));
        self.entries[..place].iter().rposition(|entry| {
            let other = entry.permit();
            u64::from(other.weight()) + weight > capacity || other.capacity() != own.capacity()
        })
    }

    /// How much all before this place take.
    pub fn weight_before(&self, place: usize) -> u64 {
        self.entries[..place].iter().map(|entry| u64::from(entry.permit().weight())).sum()
    }

    fn fits(&self, place: usize, permit: Permit) -> bool {
        self.weight_before(place) + u64::from(permit.weight()) <= u64::from(permit.capacity())
            && self.entries[..place].iter().all(|entry| entry.permit().capacity() == permit.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Entry for Permit {
        fn session(&self) -> SessionId {
            SessionId::from_u128(1)
        }

        fn permit(&self) -> Permit {
            *self
        }
    }

    fn queue(permits: &[Permit]) -> Queue<Permit> {
        Queue::new(permits.to_vec())
    }

    #[test]
    fn the_weights_of_all_before_decide() {
        let of_three = |weight| Permit::new(weight, 3).unwrap();
        let queue = queue(&[of_three(1), of_three(1), of_three(2), of_three(1)]);
        assert_eq!((queue.holders(), queue.weight_before(2)), (2, 2));
        assert!(!queue.has_room_for(of_three(1)), "nobody overtakes");
        assert_eq!(queue.excluder(2), None, "either of the first two may make room");
    }

    #[test]
    fn whoever_excludes_is_the_last_one_before() {
        let queue = queue(&[Permit::READER, Permit::WRITER, Permit::READER, Permit::READER]);
        assert_eq!(queue.holders(), 1);
        assert_eq!((queue.excluder(3), queue.excluder(2), queue.excluder(1)), (Some(1), Some(1), Some(0)));
    }

    /// One that asked by another capacity, and has not been taken back yet.
    #[test]
    fn nobody_holds_behind_another_capacity() {
        let of_five = Permit::new(1, 5).unwrap();
        let queue = queue(&[of_five, Permit::MUTEX, of_five]);
        assert_eq!((queue.holders(), queue.has_room_for(of_five)), (1, false));
        assert!(!queue.holds(2), "if the first goes, the mutex is next");
        assert_eq!(queue.excluder(2), Some(1));
        assert_eq!(
            (queue.other_capacity(Some(1), Permit::MUTEX), queue.other_capacity(None, of_five)),
            (Some(5), None)
        );
    }
}
