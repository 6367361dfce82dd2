//! [`SystemClock`]: the machine's own clocks.

use std::time::{Duration, SystemTime};

use super::{BootTime, Clock, Pause};

/// The machine's clocks and the timers of the Tokio runtime it is used on.
///
/// Boot time is `CLOCK_BOOTTIME` on Linux, where a timer on that clock wakes as soon as the machine does; it needs a
/// runtime with I/O enabled (`enable_all`). On macOS it is `CLOCK_MONOTONIC`, which counts sleep there; elsewhere
/// the standard library's monotonic clock, of which nothing is promised. Platforms other than Linux are untested.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clocks.
    pub fn new() -> SystemClock {
        SystemClock
    }
}

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        boot_now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door through which the wall clock is read")]
    fn wall_micros(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door through which time passes")]
    fn sleep(&self, time: Duration) -> Pause {
        Box::pin(tokio::time::sleep(time))
    }

    fn wake_at(&self, at: BootTime) -> Pause {
        Box::pin(wake_at(at))
    }
}

#[cfg(target_os = "linux")]
fn boot_now() -> BootTime {
    nanos(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

// macOS: CLOCK_MONOTONIC goes on while the machine sleeps.
#[cfg(all(unix, not(target_os = "linux")))]
fn boot_now() -> BootTime {
    nanos(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[cfg(unix)]
fn nanos(time: rustix::time::Timespec) -> BootTime {
    // Neither clock is ever negative.
    BootTime::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

#[cfg(not(unix))]
#[expect(clippy::disallowed_methods, reason = "this is the door through which time is read")]
fn boot_now() -> BootTime {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    BootTime::from_nanos(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// A timer on `CLOCK_BOOTTIME`: Tokio's own stand still while the machine sleeps.
#[cfg(target_os = "linux")]
async fn wake_at(at: BootTime) {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;

    if boot_now() >= at {
        return;
    }
    let armed = || -> std::io::Result<_> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let nanos = at.as_nanos();
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once)?;
        // Tokio's safe door for a descriptor that one only waits for; `AsyncFd` has none.
        Receiver::from_owned_fd_unchecked(timer)
    };
    if let Ok(timer) = armed() {
        // The wait's only failure is a runtime that shuts down; the loop below then decides.
        let _ = timer.readable().await;
    }
    in_slices(at).await;
}

#[cfg(not(target_os = "linux"))]
async fn wake_at(at: BootTime) {
    in_slices(at).await;
}

/// Looks again four times a second: for platforms without such a timer, and when no descriptor was left for one.
#[expect(clippy::disallowed_methods, reason = "this is the door through which time passes")]
async fn in_slices(at: BootTime) {
    const SLICE: Duration = Duration::from_millis(250);
    loop {
        let left = at.since(boot_now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLICE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_boot_timer_ends_at_its_instant_and_not_before() {
        let clock = SystemClock::new();
        let at = clock.boot() + Duration::from_millis(30);
        clock.wake_at(at).await;
        let late = clock.boot().since(at);
        assert!(clock.boot() >= at, "woke too early");
        assert!(late < Duration::from_secs(1), "woke {late:?} late");
    }

    #[tokio::test]
    async fn an_instant_in_the_past_is_no_pause() {
        SystemClock::new().wake_at(BootTime::ZERO).await;
    }

    #[test]
    fn boot_time_never_goes_back() {
        let clock = SystemClock::new();
        let mut last = clock.boot();
        for _ in 0..10_000 {
            let now = clock.boot();
            assert!(now >= last);
            last = now;
        }
    }
}
