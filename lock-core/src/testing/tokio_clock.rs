//! [`TokioClock`]: time as Tokio has it, paused or not.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{BootTime, Clock, Pause};

/// A clock that follows `tokio::time::pause` and `tokio::time::advance`, for tests that move time by those.
///
/// ```
/// use std::time::Duration;
/// use lock_core::Clock;
/// use lock_core::testing::TokioClock;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let clock = TokioClock::new();
/// let before = clock.boot();
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(clock.boot().since(before), Duration::from_secs(60));
/// # }
/// ```
///
/// Its wall clock begins in November 2023, and never steps.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

const BOOT: BootTime = BootTime::from_nanos(1_000_000_000_000);
const WALL_MICROS: u64 = 1_700_000_000_000_000;

impl TokioClock {
    /// A clock that begins now.
    pub fn new() -> TokioClock {
        TokioClock { start: now() }
    }

    fn passed(&self) -> Duration {
        now().saturating_duration_since(self.start)
    }
}

impl Default for TokioClock {
    fn default() -> TokioClock {
        TokioClock::new()
    }
}

impl Clock for TokioClock {
    fn boot(&self) -> BootTime {
        BOOT + self.passed()
    }

    fn wall_micros(&self) -> u64 {
        WALL_MICROS + u64::try_from(self.passed().as_micros()).unwrap_or(u64::MAX - WALL_MICROS)
    }

    #[expect(clippy::disallowed_methods, reason = "this clock is Tokio's time")]
    fn sleep(&self, time: Duration) -> Pause {
        Box::pin(tokio::time::sleep(time))
    }

    fn wake_at(&self, at: BootTime) -> Pause {
        self.sleep(at.since(self.boot()))
    }
}

#[expect(clippy::disallowed_methods, reason = "this clock is Tokio's time")]
fn now() -> Instant {
    Instant::now()
}
