//! [`Sweep`]: keys that nobody uses any more go, a few at a time.

use std::time::Duration;

use lock_core::{BootTime, Clock, SystemClock};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ask::micros;
use crate::dial::Dial;
use crate::line::{Query, query};

/// How often a client looks.
const EVERY: Duration = Duration::from_secs(5);

/// At how many keys, at least and at most; in between at twice as many as it has used since. So whoever makes many looks at many.
const KEYS: (usize, usize) = (100, 2_000);

/// How far a client has come with its look at all keys.
pub(crate) struct Sweep {
    due: BootTime,
    after: Vec<u8>,
}

impl Sweep {
    pub(crate) fn new() -> Sweep {
        Sweep { due: SystemClock::new().boot() + EVERY, after: Vec::new() }
    }

    pub(crate) fn due(&self) -> BootTime {
        self.due
    }

    /// The next look, after so many claims and releases.
    pub(crate) fn look(&mut self, dial: &Dial, used: usize) -> Query {
        self.due = SystemClock::new().boot() + EVERY;
        let limit = i64::try_from((2 * used).clamp(KEYS.0, KEYS.1)).unwrap_or(i64::MAX);
        query!(dial.schema.sweep, self.after.clone(), limit, micros(dial.idle_after()))
    }

    /// Returns the keys on which somebody may have died.
    pub(crate) fn looked(&mut self, rows: &[PgRow]) -> Vec<Vec<u8>> {
        let Some(row) = rows.first() else { return Vec::new() };
        self.after = row.try_get::<Option<_>, _>(0).ok().flatten().unwrap_or_default();
        row.try_get(1).unwrap_or_default()
    }
}
