//! [`Fence`]: the high-water mark that a protected resource keeps.

use crate::error::Error;
use crate::mode::Mode;
use crate::token::FencingToken;

/// The mark that a resource keeps to refuse writers whose lock is over.
///
/// ```
/// use lock_core::{Fence, FencingToken, Mode};
///
/// let mut fence = Fence::new();
/// let (older, newer) = (FencingToken::new(33)?, FencingToken::new(34)?);
///
/// fence.admit(Mode::Exclusive, newer)?;             // the successor's write
/// fence.admit(Mode::Exclusive, newer)?;             // and its next one
/// assert!(fence.admit(Mode::Exclusive, older).is_err()); // the paused holder wakes up: refused
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It keeps two marks: the highest token admitted, and the highest *exclusive* one. An exclusive grant passes
/// while no higher token of any mode was admitted, and its own again passes. A shared grant or a permit passes
/// while its token is above the last exclusive one, so that these do not fence each other.
///
/// This one lives in memory. A resource that outlives its process stores the two numbers beside the data and
/// makes them one transaction with the write ([`Fence::restore`], [`Fence::marks`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    highest: u64,
    exclusive: u64,
}

impl Fence {
    /// A fence that has admitted nobody.
    pub fn new() -> Fence {
        Fence::default()
    }

    /// A fence from the marks that [`Fence::marks`] returned; 0 where there is none.
    pub fn restore(highest: u64, exclusive: u64) -> Fence {
        Fence { highest: highest.max(exclusive), exclusive }
    }

    /// The highest token admitted and the highest exclusive one, in this order; 0 where there is none.
    pub fn marks(&self) -> (u64, u64) {
        (self.highest, self.exclusive)
    }

    /// Lets a write pass, and remembers its token, or refuses it.
    ///
    /// # Errors
    /// [`Stale`] when a later grant was admitted; nothing is remembered then.
    pub fn admit(&mut self, mode: Mode, token: FencingToken) -> Result<(), Stale> {
        let number = token.get();
        match mode {
            Mode::Exclusive if number < self.highest => return Err(Stale { token, admitted: self.highest }),
            Mode::Exclusive => self.exclusive = number,
            // Tokens are unique for a key: one equal to the exclusive mark was an exclusive grant's.
            _ if number <= self.exclusive => return Err(Stale { token, admitted: self.exclusive }),
            _ => {}
        }
        self.highest = self.highest.max(number);
        Ok(())
    }
}

/// A write was refused: its lock was over when a later holder had already written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stale fencing token {token}: a grant with token {admitted} has already written; this holder lost its lock"
)]
#[non_exhaustive]
pub struct Stale {
    /// The token of the write that was refused.
    pub token: FencingToken,
    /// The token of the later grant that was admitted before.
    pub admitted: u64,
}

/// Why a fenced write to a store did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A later grant has written: this holder lost its lock. Nothing was written.
    #[error("{}", Stale { token: *token, admitted: *admitted })]
    Stale {
        /// The token of the write that was refused.
        token: FencingToken,
        /// The later one that was admitted before.
        admitted: u64,
    },
    /// The write failed, or no answer came; [`Error::took_effect`] says whether it may have been applied.
    #[error("{0}")]
    Failed(#[source] Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    #[test]
    fn an_older_writer_is_refused_after_a_newer_one() {
        let mut fence = Fence::new();
        fence.admit(Mode::Exclusive, token(5)).unwrap();
        assert_eq!(fence.admit(Mode::Exclusive, token(4)), Err(Stale { token: token(4), admitted: 5 }));
        fence.admit(Mode::Exclusive, token(5)).unwrap();
    }

    #[test]
    fn readers_do_not_fence_each_other_but_fence_an_older_writer() {
        let mut fence = Fence::new();
        fence.admit(Mode::Exclusive, token(2)).unwrap();
        fence.admit(Mode::Shared, token(9)).unwrap();
        fence.admit(Mode::Shared, token(3)).unwrap();
        fence.admit(Mode::Permits { held: 1, of: 3 }, token(4)).unwrap();
        assert!(fence.admit(Mode::Exclusive, token(8)).is_err());
        fence.admit(Mode::Exclusive, token(10)).unwrap();
        assert!(fence.admit(Mode::Shared, token(9)).is_err());
        assert!(fence.admit(Mode::Shared, token(10)).is_err());
    }

    #[test]
    fn a_refusal_changes_nothing_and_marks_survive_a_restart() {
        let mut fence = Fence::new();
        fence.admit(Mode::Exclusive, token(7)).unwrap();
        fence.admit(Mode::Shared, token(8)).unwrap();
        let before = fence;
        assert!(fence.admit(Mode::Exclusive, token(7)).is_err());
        assert_eq!(fence, before);
        let (highest, exclusive) = fence.marks();
        assert_eq!(Fence::restore(highest, exclusive), fence);
    }

    #[test]
    fn a_refusal_says_what_its_cause_says() {
        let stale = Stale { token: token(1), admitted: 2 };
        let refused = Refused::Stale { token: token(1), admitted: 2 };
        assert_eq!(refused.to_string(), stale.to_string());
        let error = Error::unavailable("no answer");
        assert_eq!(Refused::Failed(error.clone()).to_string(), error.to_string());
    }
}
