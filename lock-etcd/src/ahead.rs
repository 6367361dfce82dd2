//! [`Ahead`]: what stands before one claim that waits, and how much of it has gone since it was looked at.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::queue::Obstacle;
use crate::watch::Watch;

/// What a claim waits for, kept up to date by a watch.
///
/// Invariant: whatever goes after the look is counted, in whichever order news and look arrive. The watch begins at the store's
/// present, says at which revision that was, and remembers what has gone since: a look at an earlier revision has to be repeated,
/// and one that was overtaken by such news is corrected by it. No name before a claim is used again while that claim stands, as
/// whoever comes later comes behind it.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// What is watched; a claim with another obstacle needs another watch.
    watched: String,
    left: Arc<Left>,
    watch: Watch,
}

/// What of it is still there.
#[derive(Debug)]
pub(crate) struct Left(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    obstacle: Obstacle,
    /// The store's revision at that look.
    seen_at: i64,
    gone: HashSet<String>,
}

impl Ahead {
    pub(crate) fn new(watched: String, left: Arc<Left>, watch: Watch) -> Ahead {
        Ahead { watched, left, watch }
    }

    /// Whether its watch is the one that this obstacle needs, and still alive.
    pub(crate) fn is_for(&self, watched: &str) -> bool {
        self.watched == watched && self.watch.is_alive()
    }

    /// Whether nothing can be missed.
    pub(crate) fn is_alive(&self) -> bool {
        self.watch.is_alive()
    }

    /// It was looked at anew, at this revision of the store. Whether so much has gone by now that the claim may hold.
    pub(crate) fn look(&self, obstacle: Obstacle, seen_at: i64) -> bool {
        let mut inner = self.left.lock();
        (inner.obstacle, inner.seen_at) = (obstacle, seen_at);
        inner.is_out_of_the_way()
    }
}

impl Left {
    pub(crate) fn new(obstacle: Obstacle, seen_at: i64) -> Arc<Left> {
        Arc::new(Left(Mutex::new(Inner { obstacle, seen_at, gone: HashSet::new() })))
    }

    /// The watch tells what happens after this revision. Whether something may have happened between the look and that.
    pub(crate) fn begun(&self, revision: i64) -> bool {
        revision > self.lock().seen_at
    }

    /// This has gone. Returns whether so much has, by this, that the claim may hold; and then, what the obstacle was.
    pub(crate) fn gone(&self, name: &str) -> Option<Obstacle> {
        let mut inner = self.lock();
        let counts = inner.gone.insert(name.to_owned())
            && inner.obstacle.before.iter().any(|(before, _)| before == name);
        (counts && inner.is_out_of_the_way()).then(|| inner.obstacle.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_out_of_the_way(&self) -> bool {
        let before = self.obstacle.before.iter();
        let gone: u64 =
            before.filter(|(name, _)| self.gone.contains(name)).map(|(_, weight)| u64::from(*weight)).sum();
        gone >= self.obstacle.surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Watched;

    fn obstacle(before: &[(&str, u32)], surplus: u64) -> Obstacle {
        let before = before.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Obstacle {
            watched: Watched::All("k/".to_owned()),
            before,
            surplus,
            at: 1,
            is_only: false,
            grants: false,
        }
    }

    #[test]
    fn enough_has_to_go() {
        let left = Left::new(obstacle(&[("a", 1), ("b", 2), ("c", 1)], 3), 9);
        assert!(!left.begun(9) && left.begun(10));
        assert_eq!((left.gone("a"), left.gone("other"), left.gone("a")), (None, None, None));
        assert!(left.gone("b").is_some());
    }

    #[test]
    fn a_look_that_was_overtaken_is_corrected() {
        let left = Left::new(obstacle(&[("a", 1), ("b", 1)], 1), 5);
        assert!(left.gone("b").is_some());
        // It was sent before that, and arrives now.
        let ahead = Ahead::new("k/".to_owned(), left.clone(), Watch::for_tests());
        assert!(ahead.look(obstacle(&[("a", 1), ("b", 1)], 1), 6));
        assert!(!ahead.look(obstacle(&[("a", 1), ("b", 1)], 2), 7));
        assert!(left.gone("a").is_some());
    }
}
