//! Advisory locks, tried and never waited for inside the kernel: a process that is frozen in a critical section must
//! not freeze the others.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use lock_core::{BootTime, Clock};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long somebody may stay in a critical section, which takes some microseconds, before it is an error.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where the caller cannot await.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);

/// A lock on an open file, given back when dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a>(BorrowedFd<'a>);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing would not do: a child between fork and exec shares the descriptor, and with it the lock.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// Locks a file for this descriptor alone; `None` when another has it.
pub(crate) fn try_lock(file: &impl AsFd) -> rustix::io::Result<Option<Locked<'_>>> {
    let file = file.as_fd();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(Locked(file))),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// As [`try_lock`], again for a short while. For what happens once per opening.
pub(crate) fn lock_soon<'a>(
    file: &'a impl AsFd,
    clock: &dyn Clock,
) -> rustix::io::Result<Option<Locked<'a>>> {
    let until = clock.boot() + SHORT_PATIENCE;
    // A test's clock may stand still: the count ends it then.
    for _ in 0..1_000_000 {
        match try_lock(file)? {
            None if clock.boot() < until => std::thread::yield_now(),
            other => return Ok(other),
        }
    }
    Ok(None)
}

/// The pauses between tries for a lock that somebody else has.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    clock: &'a dyn Clock,
    until: Option<BootTime>,
    tries: u32,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(clock: &'a dyn Clock) -> Patience<'a> {
        Patience { clock, until: None, tries: 0 }
    }

    /// Pauses before the next try; `false` when patience is over.
    pub(crate) async fn pause(&mut self) -> bool {
        let now = self.clock.boot();
        let until = *self.until.get_or_insert(now + PATIENCE);
        if now >= until {
            return false;
        }
        self.tries += 1;
        match self.tries {
            // Most critical sections are shorter than a switch of tasks.
            0..=20 => std::hint::spin_loop(),
            21..=100 => tokio::task::yield_now().await,
            tries => {
                let micros = 50 << ((tries - 100) / 8).min(6);
                self.clock.sleep(Duration::from_micros(micros)).await;
            }
        }
        true
    }
}
