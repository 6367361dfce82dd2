//! [`VirtualClock`]: time that moves only when a test says so.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{BootTime, Clock, Pause};

/// A clock that stands still until it is moved.
///
/// Clones are the same clock. It can do what no machine does on request: sleep ([`VirtualClock::suspend`]), and
/// step its wall clock ([`VirtualClock::step_wall`]).
///
/// ```
/// use std::time::Duration;
/// use lock_core::{Clock, VirtualClock};
///
/// let clock = VirtualClock::new();
/// let before = clock.boot();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.boot().since(before), Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Counts sleep.
    boot: BootTime,
    /// Does not.
    running: BootTime,
    wall_micros: u64,
    next_timer: u64,
    /// By instant, then by age: timers fire in a fixed order.
    boot_timers: BTreeMap<(BootTime, u64), Waker>,
    running_timers: BTreeMap<(BootTime, u64), Waker>,
}

impl Default for State {
    fn default() -> State {
        State {
            boot: BootTime::from_nanos(1_000_000_000_000),
            running: BootTime::from_nanos(1_000_000_000_000),
            wall_micros: 1_700_000_000_000_000,
            next_timer: 0,
            boot_timers: BTreeMap::new(),
            running_timers: BTreeMap::new(),
        }
    }
}

impl VirtualClock {
    /// A clock at some instant, in November 2023.
    pub fn new() -> VirtualClock {
        VirtualClock::default()
    }

    /// Lets time pass. Timers that are due end; run the runtime for their tasks to notice.
    pub fn advance(&self, time: Duration) {
        self.pass(time, true);
    }

    /// Lets the machine sleep: boot time and wall time pass, running time does not.
    pub fn suspend(&self, time: Duration) {
        self.pass(time, false);
    }

    /// Moves the wall clock alone, in microseconds.
    pub fn step_wall(&self, micros: i64) {
        let mut state = self.state();
        state.wall_micros = state.wall_micros.saturating_add_signed(micros);
    }

    /// The earliest instant at which a timer is due: where to advance to next.
    pub fn next_timer(&self) -> Option<BootTime> {
        let state = self.state();
        let boot = state.boot_timers.keys().next().map(|&(at, _)| at);
        let running = state.running_timers.keys().next().map(|&(at, _)| state.boot + at.since(state.running));
        boot.into_iter().chain(running).min()
    }

    fn pass(&self, time: Duration, awake: bool) {
        let mut due = Vec::new();
        {
            let mut state = self.state();
            state.boot = state.boot + time;
            state.wall_micros =
                state.wall_micros.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            if awake {
                state.running = state.running + time;
            }
            let (boot, running) = (state.boot, state.running);
            due.extend(expire(&mut state.boot_timers, boot));
            due.extend(expire(&mut state.running_timers, running));
        }
        for waker in due {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timer(&self, at: BootTime, boot: bool) -> Pause {
        let clock = self.clone();
        let mut registered = Registration { clock: self.clone(), boot, slot: None };
        Box::pin(poll_fn(move |context| {
            // The whole of it: a closure that names only its slot would copy that, and drop the registration here.
            let registered = &mut registered;
            let mut state = clock.state();
            let now = if boot { state.boot } else { state.running };
            if now >= at {
                return Poll::Ready(());
            }
            let slot = *registered.slot.get_or_insert_with(|| {
                state.next_timer += 1;
                (at, state.next_timer)
            });
            let timers = if boot { &mut state.boot_timers } else { &mut state.running_timers };
            let previous = timers.insert(slot, context.waker().clone());
            // A waker may own the last handle of a task that owns a timer of this clock: never drop it under the lock.
            drop(state);
            drop(previous);
            Poll::Pending
        }))
    }
}

/// Takes a dropped timer off the clock, so that `next_timer` names only those that somebody awaits.
struct Registration {
    clock: VirtualClock,
    boot: bool,
    slot: Option<(BootTime, u64)>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let mut state = self.clock.state();
            let timers = if self.boot { &mut state.boot_timers } else { &mut state.running_timers };
            let waker = timers.remove(&slot);
            drop(state);
            drop(waker);
        }
    }
}

fn expire(timers: &mut BTreeMap<(BootTime, u64), Waker>, now: BootTime) -> Vec<Waker> {
    let later = timers.split_off(&(now, u64::MAX));
    std::mem::replace(timers, later).into_values().collect()
}

impl Clock for VirtualClock {
    fn boot(&self) -> BootTime {
        self.state().boot
    }

    fn wall_micros(&self) -> u64 {
        self.state().wall_micros
    }

    fn sleep(&self, time: Duration) -> Pause {
        let at = self.state().running + time;
        self.timer(at, false)
    }

    fn wake_at(&self, at: BootTime) -> Pause {
        self.timer(at, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_timer_is_taken_off() {
        let clock = VirtualClock::new();
        for mut pause in [clock.sleep(Duration::from_secs(1)), clock.wake_at(BootTime::from_nanos(u64::MAX))]
        {
            assert!(poll_fn(|context| Poll::Ready(pause.as_mut().poll(context))).await.is_pending());
            assert!(clock.next_timer().is_some());
            drop(pause);
            assert_eq!(clock.next_timer(), None);
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test's own tasks, on its own runtime")]
    async fn a_sleeping_machine_ends_boot_timers_only() {
        let clock = VirtualClock::new();
        let mut by_boot = tokio::spawn(clock.wake_at(clock.boot() + Duration::from_secs(5)));
        let mut by_running = tokio::spawn(clock.sleep(Duration::from_secs(5)));
        while clock.state().boot_timers.is_empty() || clock.state().running_timers.is_empty() {
            tokio::task::yield_now().await;
        }
        clock.suspend(Duration::from_secs(6));
        (&mut by_boot).await.unwrap();
        assert!(!by_running.is_finished());
        clock.advance(Duration::from_secs(5));
        (&mut by_running).await.unwrap();
        assert_eq!(clock.next_timer(), None);
    }
}
