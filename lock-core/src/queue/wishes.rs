//! What those who wait tell those who hold, in stores that keep texts: which claims are in the way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Entry;
use crate::backend::{ClaimRef, SessionId, Ticket};
use crate::clock::BootTime;
use crate::key::LockKey;

/// So many sessions at most are told at once.
const TOLD_AT_ONCE: usize = 16;

/// What one session is told, in bytes: all that are told at once have to fit into one request, which stores refuse above a megabyte.
const LONGEST: usize = 60_000;

/// Whoever tries again and again tells it once in so long.
const SELDOM: Duration = Duration::from_secs(10);

/// Whom to tell of holds that are in the way, and of which: the first sixteen sessions that have any.
pub fn of_sessions<'a, E: Entry>(holds: impl IntoIterator<Item = &'a E>) -> BTreeMap<SessionId, Vec<&'a E>> {
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for hold in holds {
        let session = hold.session();
        if told.len() < TOLD_AT_ONCE || told.contains_key(&session) {
            told.entry(session).or_default().push(hold);
        }
    }
    told
}

/// When the holders of a key were told that somebody has tried. Whoever only tries tells it as well: nobody else may be there to
/// do so.
#[derive(Debug, Default)]
pub struct Tries {
    told: Mutex<HashMap<LockKey, BootTime>>,
}

impl Tries {
    /// Whether they are to be told now, which is once in ten seconds, however often somebody tries.
    pub fn is_time(&self, key: &LockKey, now: BootTime) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |since: &BootTime| now.since(*since) < SELDOM;
        if told.get(key).is_some_and(is_recent) {
            return false;
        }
        told.retain(|_, since| is_recent(since));
        told.insert(key.clone(), now);
        true
    }
}

/// One line for each claim: `TICKET KEY`. The first ones, for as long as they fit.
pub fn written<'a>(claims: impl IntoIterator<Item = (&'a LockKey, Ticket)>) -> String {
    let mut text = String::new();
    for (key, ticket) in claims {
        let line = format!("{} {}\n", ticket.0, key.encoded());
        if text.len() + line.len() > LONGEST {
            break;
        }
        text += &line;
    }
    text
}

/// What was [`written`]. Anything else in it is passed over.
pub fn read(text: &str) -> impl Iterator<Item = ClaimRef> {
    text.lines().filter_map(|line| {
        let (ticket, key) = line.split_once(' ')?;
        Some(ClaimRef::new(LockKey::decode(key)?, Ticket(ticket.parse().ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Permit;

    struct Hold(u128);

    impl Entry for Hold {
        fn session(&self) -> SessionId {
            SessionId::from_u128(self.0)
        }

        fn permit(&self) -> Permit {
            Permit::READER
        }
    }

    #[test]
    fn what_one_session_is_told_has_an_end() {
        let key = LockKey::new("ü".repeat(256)).unwrap();
        let text = written((0..1000).map(|ticket| (&key, Ticket(ticket))));
        assert!(text.len() <= LONGEST && TOLD_AT_ONCE * text.len() < 1_000_000, "{}", text.len());
        assert!(read(&text).count() > 30 && read(&text).all(|claim| claim.key == key));
    }

    #[test]
    fn sixteen_sessions_are_told_at_once_and_each_of_all_its_holds() {
        let holds: Vec<_> = (0..40).map(|number| Hold(number % 20)).collect();
        let told = of_sessions(&holds);
        assert_eq!(told.len(), 16);
        assert!(told.values().all(|holds| holds.len() == 2));
    }

    #[test]
    fn whoever_tries_all_the_time_tells_it_once_in_ten_seconds() {
        let (tries, key) = (Tries::default(), LockKey::new("k").unwrap());
        let told =
            (0..25).filter(|&second| tries.is_time(&key, BootTime::from_nanos(second * 1_000_000_000)));
        assert_eq!(told.collect::<Vec<_>>(), [0, 10, 20]);
        assert!(tries.is_time(&LockKey::new("other").unwrap(), BootTime::from_nanos(0)));
    }

    #[test]
    fn wishes_read_back() {
        let (one, other) = (LockKey::new("a b\n").unwrap(), LockKey::new("c").unwrap());
        let text = written([(&one, Ticket(3)), (&other, Ticket(4))]) + "no wish";
        let found: Vec<_> = read(&text).collect();
        assert_eq!(found, [ClaimRef::new(one, Ticket(3)), ClaimRef::new(other, Ticket(4))]);
    }
}
