//! The names of what is measured and traced.
//!
//! Metrics go through the `metrics` facade when the feature `metrics` is on; without a recorder they cost a branch.
//! Spans and events go through `tracing` under the target `fencepost`.

use std::time::Duration;

use tracing::Span;
use tracing::field::{Empty, display};

use crate::hold::{Busy, End};
use crate::key::LockKey;
use crate::mode::Mode;

/// Counter: locks acquired.
pub const ACQUIRED: &str = "fencepost_acquired_total";
/// Counter: attempts that ended because another held the lock.
pub const BUSY: &str = "fencepost_busy_total";
/// Counter: holds lost, with the label `reason` ([`Reason::as_str`](crate::Reason::as_str)).
pub const LOST: &str = "fencepost_lost_total";
/// Histogram, seconds: from asking for a lock until it was granted.
pub const WAITED: &str = "fencepost_waited_seconds";
/// Histogram, seconds: from the grant until the end.
pub const HELD: &str = "fencepost_held_seconds";
/// Gauge, seconds: the age of the oldest hold of a session, taken at each heartbeat.
pub const OLDEST_HOLD: &str = "fencepost_oldest_hold_seconds";
/// Counter: holds without `hold_at_most` that outlived ten TTLs: perhaps guards that were leaked.
pub const PERHAPS_LEAKED: &str = "fencepost_perhaps_leaked_total";
/// Counter: holds that somebody else wanted while they lasted.
pub const WANTED: &str = "fencepost_wanted_total";
/// Span, at debug level: one acquisition. Its fields are `key`, `mode`, `token` once it is granted, and `blocked_by`
/// while another is in the way.
pub const SPAN_ACQUIRE: &str = "acquire";
/// The target of every span and event.
pub const TARGET: &str = "fencepost";

/// Describes every metric to the installed recorder. Call it once after installing one.
#[cfg(feature = "metrics")]
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(ACQUIRED, "Locks acquired");
    describe_counter!(BUSY, "Attempts that ended because another held the lock");
    describe_counter!(LOST, "Holds lost, by reason");
    describe_histogram!(WAITED, Unit::Seconds, "From asking for a lock until it was granted");
    describe_histogram!(HELD, Unit::Seconds, "From the grant until the end");
    describe_gauge!(OLDEST_HOLD, Unit::Seconds, "Age of the oldest hold");
    describe_counter!(WANTED, "Holds that somebody else wanted while they lasted");
    describe_counter!(PERHAPS_LEAKED, "Holds that outlived ten TTLs without hold_at_most");
}

pub(crate) fn acquire_span(key: &LockKey, mode: Mode) -> Span {
    tracing::debug_span!(target: TARGET, SPAN_ACQUIRE, %key, %mode, token = Empty, blocked_by = Empty)
}

/// Names the holder in the span of whoever waits for it.
pub(crate) fn blocked(busy: &Busy) {
    Span::current().record("blocked_by", display(busy));
}

#[cfg(feature = "metrics")]
mod record {
    use super::{ACQUIRED, BUSY, Duration, End, HELD, LOST, OLDEST_HOLD, PERHAPS_LEAKED, WAITED, WANTED};

    pub(crate) fn acquired(waited: Duration) {
        metrics::counter!(ACQUIRED).increment(1);
        metrics::histogram!(WAITED).record(waited.as_secs_f64());
    }

    pub(crate) fn busy() {
        metrics::counter!(BUSY).increment(1);
    }

    pub(crate) fn ended(held: Duration, end: End) {
        metrics::histogram!(HELD).record(held.as_secs_f64());
        if let End::Lost(reason) = end {
            metrics::counter!(LOST, "reason" => reason.as_str()).increment(1);
        }
    }

    pub(crate) fn oldest_hold(age: Duration) {
        metrics::gauge!(OLDEST_HOLD).set(age.as_secs_f64());
    }

    pub(crate) fn wanted() {
        metrics::counter!(WANTED).increment(1);
    }

    pub(crate) fn perhaps_leaked() {
        metrics::counter!(PERHAPS_LEAKED).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod record {
    use super::{Duration, End};

    pub(crate) fn acquired(_waited: Duration) {}
    pub(crate) fn busy() {}
    pub(crate) fn ended(_held: Duration, _end: End) {}
    pub(crate) fn oldest_hold(_age: Duration) {}
    pub(crate) fn wanted() {}
    pub(crate) fn perhaps_leaked() {}
}

pub(crate) use record::{acquired, busy, ended, oldest_hold, perhaps_leaked, wanted};
