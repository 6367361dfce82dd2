//! [`BootTime`].

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant of the clock that counts the machine's sleep, as time since the machine started.
///
/// Instants of one machine can be compared, also between processes; those of different machines or boots cannot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BootTime(u64);

impl BootTime {
    /// The start of the machine.
    pub const ZERO: BootTime = BootTime(0);

    /// An instant from the nanoseconds since the machine's start.
    pub const fn from_nanos(nanos: u64) -> BootTime {
        BootTime(nanos)
    }

    /// Nanoseconds since the machine's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since an earlier instant, or zero when that one is later.
    #[must_use]
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    /// Stops at the end of time instead of wrapping.
    fn add(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = BootTime;

    /// Stops at the machine's start instead of wrapping.
    fn sub(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootTime({:?})", Duration::from_nanos(self.0))
    }
}
