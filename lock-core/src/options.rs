//! What one acquisition asks for: [`AcquireOptions`] and [`Wait`].

use std::time::Duration;

use crate::error::{Error, Result};
use crate::holder::Note;

/// How long `acquire` is ready to wait. Patience only: it says nothing about how long a lock is then held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Until the lock is granted.
    Unbounded,
    /// At most this long. Zero is exactly one attempt, as `try_acquire`.
    AtMost(Duration),
}

/// What one acquisition asks for. Everything unset falls back to the client's defaults.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireOptions, Wait};
///
/// let options = AcquireOptions::new()
///     .wait(Wait::AtMost(Duration::from_secs(30)))
///     .hold_at_most(Duration::from_secs(600));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcquireOptions {
    /// See [`AcquireOptions::wait`].
    pub wait: Option<Wait>,
    /// See [`AcquireOptions::hold_at_most`].
    pub hold_at_most: Option<Duration>,
    /// See [`AcquireOptions::hold_at_least`].
    pub hold_at_least: Option<Duration>,
    /// See [`AcquireOptions::note`].
    pub note: Option<Note>,
}

impl AcquireOptions {
    /// Nothing asked: the client's defaults.
    pub fn new() -> AcquireOptions {
        AcquireOptions::default()
    }

    /// How long to wait. Unset: the client's default, and without one `acquire` waits without bound while
    /// `lock.run` makes one attempt.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> AcquireOptions {
        self.wait = Some(wait);
        self
    }

    /// Ends the hold at this age however well it is renewed: it is then `Lost(HeldTooLong)` and released. The answer
    /// to leaked guards and to jobs that hang.
    #[must_use]
    pub fn hold_at_most(mut self, age: Duration) -> AcquireOptions {
        self.hold_at_most = Some(age);
        self
    }

    /// Keeps the key taken until this long after the grant, also when it is released early or its process dies: so
    /// that a short job does not run once on every replica, one after the other.
    #[must_use]
    pub fn hold_at_least(mut self, time: Duration) -> AcquireOptions {
        self.hold_at_least = Some(time);
        self
    }

    /// Leaves a few words for whoever looks at the lock.
    #[must_use]
    pub fn note(mut self, note: Note) -> AcquireOptions {
        self.note = Some(note);
        self
    }

    /// These options, completed by defaults.
    #[must_use]
    pub fn or(&self, defaults: &AcquireOptions) -> AcquireOptions {
        AcquireOptions {
            wait: self.wait.or(defaults.wait),
            hold_at_most: self.hold_at_most.or(defaults.hold_at_most),
            hold_at_least: self.hold_at_least.or(defaults.hold_at_least),
            note: self.note.clone().or_else(|| defaults.note.clone()),
        }
    }

    /// The longest `hold_at_least` and the longest fixed term: one year.
    pub const LONGEST_TERM: Duration = Duration::from_secs(366 * 24 * 3600);

    pub(crate) fn check(&self) -> Result<()> {
        if self.hold_at_most.is_some_and(|age| age.is_zero()) {
            return Err(Error::invalid("hold_at_most is zero: the hold would end before it began"));
        }
        if self.hold_at_least.is_some_and(|time| time > Self::LONGEST_TERM) {
            return Err(Error::invalid("hold_at_least is longer than a year"));
        }
        Ok(())
    }
}
