//! [`Kept`]: for how long records stay when nobody renews them.

use std::time::Duration;

/// Records outlive the last renewal of their holders and waiters by so many TTLs at least.
const KEPT_TTLS: u32 = 10;

/// For how long records stay that nobody renews, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// What a record has to last for when a claim is granted.
    pub(crate) used: u64,
    /// What it is given whenever somebody looks at the clock: for so much longer, grants need not look at it again.
    pub(crate) whole: u64,
}

impl Kept {
    pub(crate) fn new(idle_after: Duration, ttl: Duration) -> Kept {
        let used = millis(ttl * KEPT_TTLS);
        Kept { used, whole: used + millis(idle_after) }
    }
}

/// Rounded up: nobody's lease is shorter than was asked.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
