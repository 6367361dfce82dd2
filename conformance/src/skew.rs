//! [`SkewedClock`]: the machine's clock, and what can go wrong with it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{BootTime, Clock, Pause, Result, SystemClock};

use crate::servers::WallClock;

/// The machine's clock, whose wall can be stepped, and which can pretend that the machine slept.
///
/// Clones are the same clock. Timers run as the machine's do: a pretended sleep is noticed by whoever looks at the
/// clock, and ends no pause early, as after a real one until the machine's timers catch up.
#[derive(Clone, Debug, Default)]
pub struct SkewedClock {
    real: SystemClock,
    skew: Arc<Skew>,
}

#[derive(Debug, Default)]
struct Skew {
    wall_micros: AtomicI64,
    stopped_at: AtomicU64,
    slept_nanos: AtomicU64,
    shown_on: Mutex<Vec<WallClock>>,
}

impl SkewedClock {
    /// A clock that is right until it is told otherwise.
    pub fn new() -> SkewedClock {
        SkewedClock::default()
    }

    /// Moves the wall clock, in microseconds; a negative number moves it back.
    pub fn step_wall(&self, micros: i64) {
        self.skew.wall_micros.fetch_add(micros, Ordering::SeqCst);
        self.show();
    }

    /// Stops the wall clock at this instant, in microseconds since 1970; at 0 it goes on.
    pub fn stop_wall(&self, micros: u64) {
        self.skew.stopped_at.store(micros, Ordering::SeqCst);
        self.show();
    }

    /// Lets the machine have slept for so long: boot time and wall time jump ahead.
    pub fn sleep_machine(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.skew.slept_nanos.fetch_add(nanos, Ordering::SeqCst);
        self.step_wall(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    }

    /// Has the servers of this wall clock see what this clock's wall shows, from now on.
    ///
    /// # Errors
    /// The wall clock cannot be set.
    pub fn shown_on(&self, wall: WallClock) -> Result<()> {
        let mut shown_on = self.skew.shown_on.lock().unwrap_or_else(PoisonError::into_inner);
        self.show_on(&wall)?;
        shown_on.push(wall);
        Ok(())
    }

    /// Under one lock: the last change is shown last.
    fn show(&self) {
        let shown_on = self.skew.shown_on.lock().unwrap_or_else(PoisonError::into_inner);
        for wall in &*shown_on {
            // Its file has had its size since it was made, and was written before: this does not fail.
            let _ = self.show_on(wall);
        }
    }

    fn show_on(&self, wall: &WallClock) -> Result<()> {
        let offset = self.skew.wall_micros.load(Ordering::SeqCst);
        wall.show(offset, self.skew.stopped_at.load(Ordering::SeqCst))
    }

    fn slept(&self) -> Duration {
        Duration::from_nanos(self.skew.slept_nanos.load(Ordering::SeqCst))
    }
}

impl Clock for SkewedClock {
    fn boot(&self) -> BootTime {
        self.real.boot() + self.slept()
    }

    fn wall_micros(&self) -> u64 {
        match self.skew.stopped_at.load(Ordering::SeqCst) {
            0 => self.real.wall_micros().saturating_add_signed(self.skew.wall_micros.load(Ordering::SeqCst)),
            stopped => stopped,
        }
    }

    fn sleep(&self, time: Duration) -> Pause {
        self.real.sleep(time)
    }

    fn wake_at(&self, at: BootTime) -> Pause {
        self.real.wake_at(at - self.slept())
    }
}
