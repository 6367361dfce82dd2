//! [`Hearing`]: what goes of a lock's claims, and which of a session's own claims that lets in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Result, Ticket};

use crate::link::Line;
use crate::queue::Obstacle;
use crate::watch::{News, Range, Tell, Watch};

/// So many of the latest news are remembered, for looks that they overtake.
const REMEMBERED: usize = 256;

/// A watch over one key before a claim, or over all claims of a lock; and the claims that wait for what it tells.
///
/// Invariant: whatever goes after the look at a queue is counted, in whichever order news and looks arrive. The watch begins at the
/// store's present and says at which revision that was: a look at an earlier one has to be repeated. One that was overtaken by
/// news is corrected by them. No name before a claim is used again while that claim stands, as whoever comes later comes behind
/// it.
#[derive(Debug)]
pub(crate) struct Hearing {
    watched: String,
    is_of_the_lock: bool,
    heard: Arc<Heard>,
    watch: Watch,
}

/// What a session is told of its claims that wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// So much has gone that the claim that was made at this revision may hold.
    OutOfTheWay { ticket: Ticket, own: i64, obstacle: Obstacle },
    /// Something may have been missed.
    AskAgain(Ticket),
}

/// A claim's place among those that wait for what a watch tells. It is left when this is dropped.
pub(crate) struct Ahead {
    hearing: Arc<Hearing>,
    ticket: Ticket,
}

impl Hearing {
    /// Tells without being called under any lock of its own.
    pub(crate) fn begin(
        line: &Line,
        range: Range,
        told: impl Fn(Told) + Send + Sync + 'static,
    ) -> Result<Hearing> {
        let (watched, is_of_the_lock) = (range.name.clone(), range.is_prefix);
        let heard = Arc::new(Heard::default());
        let hears = heard.clone();
        let tell: Tell = Arc::new(move |news| hears.hear(news).into_iter().for_each(&told));
        Ok(Hearing { watched, is_of_the_lock, watch: line.watch(range, tell)?, heard })
    }

    /// Whether nothing can be missed.
    pub(crate) fn is_alive(&self) -> bool {
        self.watch.is_alive()
    }

    /// Whether nobody waits for what it tells.
    pub(crate) fn is_idle(&self) -> bool {
        self.heard.lock().waiting.is_empty()
    }
}

impl Ahead {
    pub(crate) fn new(hearing: Arc<Hearing>, ticket: Ticket) -> Ahead {
        Ahead { hearing, ticket }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.hearing.is_alive()
    }

    /// Whether it hears of all that goes of this.
    pub(crate) fn hears(&self, name: &str) -> bool {
        self.is_alive() && (self.hearing.watched == name || self.hearing.is_of_the_lock)
    }

    /// Whether, for all that was heard, nobody waits before the claim any more: what is left before it holds.
    pub(crate) fn is_first(&self) -> bool {
        self.hearing.heard.lock().waiting.get(&self.ticket).is_some_and(Waiting::is_first)
    }

    /// A claim, made at the revision `own`, was seen to wait for this, at the revision `seen_at`. Whether it has to look again at
    /// once.
    pub(crate) fn wait(&self, own: i64, obstacle: Obstacle, seen_at: i64) -> bool {
        self.hearing.heard.wait(self.ticket, own, obstacle, seen_at)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.hearing.heard.lock().waiting.remove(&self.ticket);
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ahead({:?})", self.ticket)
    }
}

#[derive(Debug, Default)]
struct Heard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whatever goes after this revision is heard; nothing yet, while the watch has not begun.
    since: Option<i64>,
    /// What has gone last, and at which revisions.
    gone: VecDeque<(String, i64)>,
    /// What went up to this revision may have been forgotten.
    forgotten: i64,
    waiting: HashMap<Ticket, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    own: i64,
    obstacle: Obstacle,
    seen_at: i64,
    gone: HashSet<String>,
}

impl Heard {
    fn wait(&self, ticket: Ticket, own: i64, obstacle: Obstacle, seen_at: i64) -> bool {
        let mut inner = self.lock();
        let missed = inner.since.is_some_and(|since| since > seen_at) || inner.forgotten > seen_at;
        let later = inner.gone.iter().filter(|(_, at)| *at > seen_at).map(|(name, _)| name.clone());
        let waiting = Waiting { own, obstacle, seen_at, gone: later.collect() };
        let overtaken = waiting.is_out_of_the_way();
        inner.waiting.insert(ticket, waiting);
        missed || overtaken
    }

    fn hear(&self, news: News<'_>) -> Vec<Told> {
        let mut inner = self.lock();
        match news {
            News::Begun { revision } => {
                inner.since = Some(revision);
                let missed = inner.waiting.iter().filter(|(_, waiting)| waiting.seen_at < revision);
                missed.map(|(ticket, _)| Told::AskAgain(*ticket)).collect()
            }
            News::Gone { name, revision } => inner.goes(name, revision),
            News::Written { .. } => Vec::new(),
            News::Broken => inner.waiting.keys().map(|ticket| Told::AskAgain(*ticket)).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn goes(&mut self, name: &str, revision: i64) -> Vec<Told> {
        self.gone.push_back((name.to_owned(), revision));
        if self.gone.len() > REMEMBERED
            && let Some((_, revision)) = self.gone.pop_front()
        {
            self.forgotten = revision;
        }
        let mut told = Vec::new();
        for (ticket, waiting) in &mut self.waiting {
            // What was looked at later is of another making.
            let Some(held) = waiting.held(name).filter(|_| revision > waiting.seen_at) else { continue };
            waiting.gone.insert(name.to_owned());
            if waiting.is_out_of_the_way() {
                let (ticket, own, obstacle) = (*ticket, waiting.own, waiting.obstacle.clone());
                told.push(Told::OutOfTheWay { ticket, own, obstacle });
            } else if !held && waiting.is_first() {
                // Somebody has to tell the holders that he waits, and whoever did so has gone.
                told.push(Told::AskAgain(*ticket));
            }
        }
        told
    }
}

impl Waiting {
    fn is_out_of_the_way(&self) -> bool {
        let all: u64 = self.obstacle.before.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let left: u64 = self.left().map(|(_, weight)| u64::from(*weight)).sum();
        all - left >= self.obstacle.surplus
    }

    /// Whether all that is left before the claim holds.
    fn is_first(&self) -> bool {
        self.left().map(|(_, weight)| u64::from(*weight)).sum::<u64>() <= self.obstacle.capacity
    }

    /// Whether this one, if it is left before the claim, holds.
    fn held(&self, name: &str) -> Option<bool> {
        let mut weight = 0;
        let is_it = |(left, more): &&(String, u32)| {
            weight += u64::from(*more);
            left == name
        };
        self.left().find(is_it)?;
        Some(weight <= self.obstacle.capacity)
    }

    /// What is left of it.
    fn left(&self) -> impl Iterator<Item = &(String, u32)> {
        self.obstacle.before.iter().filter(|(name, _)| !self.gone.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ticket = Ticket(1);

    fn obstacle(before: &[(&str, u32)], surplus: u64) -> Obstacle {
        let before = before.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Obstacle { before, surplus, capacity: 1, grants: true }
    }

    fn gone(heard: &Heard, name: &str, revision: i64) -> Vec<Told> {
        heard.hear(News::Gone { name, revision })
    }

    fn begun(revision: i64) -> Heard {
        let heard = Heard::default();
        assert_eq!(heard.hear(News::Begun { revision }), []);
        heard
    }

    #[test]
    fn enough_has_to_go() {
        let heard = begun(1);
        let three = obstacle(&[("a", 1), ("b", 2), ("c", 1)], 3);
        assert!(!heard.wait(ONE, 9, three.clone(), 9));
        assert_eq!((gone(&heard, "a", 10), gone(&heard, "other", 11)), (vec![], vec![]));
        assert_eq!(gone(&heard, "b", 12), [Told::OutOfTheWay { ticket: ONE, own: 9, obstacle: three }]);
    }

    #[test]
    fn whoever_waits_behind_a_waiter_that_goes_is_the_first() {
        let heard = begun(1);
        // The first of the two holds, the other waits.
        assert!(!heard.wait(ONE, 9, obstacle(&[("a", 1), ("b", 1)], 2), 9));
        let is_first = || heard.lock().waiting[&ONE].is_first();
        assert!(!is_first());
        assert_eq!(gone(&heard, "b", 10), [Told::AskAgain(ONE)]);
        assert!(is_first());
        // By a hand-over he becomes it as well, and does not have to look.
        assert!(!heard.wait(ONE, 19, obstacle(&[("a", 1), ("b", 1)], 2), 19));
        assert_eq!(gone(&heard, "a", 20), []);
        assert!(is_first());
    }

    #[test]
    fn a_look_that_was_overtaken_is_corrected() {
        let heard = begun(1);
        gone(&heard, "b", 7);
        // It was sent before that, and arrives now.
        assert!(heard.wait(ONE, 5, obstacle(&[("a", 1), ("b", 1)], 1), 6));
        assert!(!heard.wait(ONE, 5, obstacle(&[("a", 1), ("b", 1)], 2), 6));
        assert_eq!(gone(&heard, "a", 8).len(), 1);
        // The same name, made again before this look, is another.
        assert!(!heard.wait(ONE, 9, obstacle(&[("b", 1)], 1), 9));
    }

    #[test]
    fn a_look_before_the_watch_is_repeated() {
        let heard = Heard::default();
        assert!(!heard.wait(ONE, 4, obstacle(&[("a", 1)], 1), 5));
        assert_eq!(heard.hear(News::Begun { revision: 6 }), [Told::AskAgain(ONE)]);
        assert!(heard.wait(ONE, 4, obstacle(&[("a", 1)], 1), 5));
        assert!(!heard.wait(ONE, 4, obstacle(&[("a", 1)], 1), 6));
        assert_eq!(heard.hear(News::Broken), [Told::AskAgain(ONE)]);
    }

    #[test]
    fn what_may_have_been_forgotten_is_looked_at_again() {
        let heard = begun(1);
        for revision in 10..10 + i64::try_from(REMEMBERED).unwrap() + 1 {
            gone(&heard, "other", revision);
        }
        assert!(heard.wait(ONE, 4, obstacle(&[("a", 1)], 1), 9));
        assert!(!heard.wait(ONE, 4, obstacle(&[("a", 1)], 1), 10));
    }
}
