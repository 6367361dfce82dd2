//! [`Verdict`]: what a scenario comes to, and the words for a failure.

use std::fmt::{self, Debug, Display};

/// What a scenario comes to.
pub type Verdict<T = ()> = Result<T, Failure>;

/// Why a scenario failed: what was expected, and what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    expected: String,
    happened: String,
    /// By which what was random is played again.
    seed: Option<u64>,
}

impl Failure {
    /// A failure in two halves of a sentence.
    pub fn new(expected: impl Display, happened: impl Display) -> Failure {
        Failure { expected: expected.to_string(), happened: happened.to_string(), seed: None }
    }

    /// The same, and where it happened.
    pub(crate) fn within(mut self, place: impl Display) -> Failure {
        self.happened = format!("{} ({place})", self.happened);
        self
    }

    pub(crate) fn seeded(mut self, seed: u64) -> Failure {
        self.seed = Some(seed);
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected: {}\nhappened: {}", self.expected, self.happened)?;
        match self.seed {
            Some(seed) => write!(f, "\nto replay what was random: CONFORMANCE_SEED={seed}"),
            None => Ok(()),
        }
    }
}

impl From<lock_core::Error> for Failure {
    fn from(error: lock_core::Error) -> Failure {
        Failure::new("no error from the store here", error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new("the machine to do its part", error)
    }
}

/// Holds, or is a failure.
///
/// # Errors
/// The failure.
pub(crate) fn expect(holds: bool, expected: impl Display, happened: impl Display) -> Verdict {
    if holds { Ok(()) } else { Err(Failure::new(expected, happened)) }
}

/// The two are the same, or it is a failure.
///
/// # Errors
/// The failure.
#[expect(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
pub(crate) fn expect_eq<T: PartialEq + Debug>(what: impl Display, found: T, expected: T) -> Verdict {
    let holds = found == expected;
    expect(holds, format_args!("{what}: {expected:?}"), format_args!("{found:?}"))
}
