//! [`Sweep`]: keys that nobody uses any more go, a few at a time.

use std::time::Duration;

use lock_core::{BootTime, Clock, SystemClock};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ask::micros;
use crate::dial::Dial;
use crate::line::{Query, query};

/// How often a client looks, unless keys are to go sooner.
const EVERY: Duration = Duration::from_secs(5);

/// Before the next look, where there was much to remove.
const PAUSE: Duration = Duration::from_millis(50);

/// At how many keys, at least and at most; in between at twice as many as it has used since. So whoever makes many looks at many.
const KEYS: (usize, usize) = (100, 2_000);

/// How far a client has come with its look at all keys.
pub(crate) struct Sweep {
    due: BootTime,
    every: Duration,
    limit: usize,
    /// There was much to remove.
    goes_on: bool,
    after: Vec<u8>,
}

impl Sweep {
    pub(crate) fn new(idle_after: Duration) -> Sweep {
        let every = EVERY.min(idle_after.max(PAUSE));
        Sweep {
            due: SystemClock::new().boot() + every,
            every,
            limit: KEYS.0,
            goes_on: false,
            after: Vec::new(),
        }
    }

    pub(crate) fn due(&self) -> BootTime {
        self.due
    }

    /// The next look, after so many claims and releases.
    pub(crate) fn look(&mut self, dial: &Dial, used: usize) -> Query {
        self.due = SystemClock::new().boot() + self.every;
        let before = if self.goes_on { self.limit } else { 0 };
        self.limit = (2 * used).max(before).clamp(KEYS.0, KEYS.1);
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        query!(dial.schema.sweep, self.after.clone(), limit, micros(dial.idle_after()))
    }

    /// Returns the keys on which somebody may have died.
    pub(crate) fn looked(&mut self, rows: &[PgRow]) -> Vec<Vec<u8>> {
        let Some(row) = rows.first() else { return Vec::new() };
        let removed: i64 = row.try_get(2).unwrap_or_default();
        self.goes_on = usize::try_from(removed).is_ok_and(|removed| 2 * removed >= self.limit);
        if self.goes_on {
            self.due = SystemClock::new().boot() + PAUSE;
        }
        self.after = row.try_get::<Option<_>, _>(0).ok().flatten().unwrap_or_default();
        row.try_get(1).unwrap_or_default()
    }
}
