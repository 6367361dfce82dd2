//! [`FencingToken`]: the number that a protected resource can check.

use std::fmt;

use crate::error::{Error, Result};

/// A number that strictly rises from grant to grant of one key.
///
/// Pass it along with every write that the lock protects, and let the resource refuse a write whose token is
/// older than one that it has seen: see [`Fence`](crate::Fence). It is between 1 and 2^53 − 1, so that it survives
/// JSON, JavaScript and Lua.
///
/// The idea is Chubby's *sequencer* (Burrows, OSDI 2006, section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The largest token, 2^53 − 1. A grant that would need a larger one is an error, never a wrap.
    pub const MAX: FencingToken = FencingToken((1 << 53) - 1);

    /// A token from its number, for instance one that travelled in a message.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for 0 and above [`FencingToken::MAX`].
    pub fn new(number: u64) -> Result<FencingToken> {
        if number == 0 || number > Self::MAX.0 {
            return Err(Error::invalid(format!(
                "a fencing token is a number from 1 to {}, not {number}",
                Self::MAX.0
            )));
        }
        Ok(FencingToken(number))
    }

    /// The number, to be stored or sent.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FencingToken({})", self.0)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

impl TryFrom<u64> for FencingToken {
    type Error = Error;

    fn try_from(number: u64) -> Result<FencingToken> {
        FencingToken::new(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(FencingToken::new(0).is_err());
        assert_eq!(FencingToken::new((1 << 53) - 1).unwrap(), FencingToken::MAX);
        assert!(FencingToken::new(1 << 53).is_err());
    }
}
