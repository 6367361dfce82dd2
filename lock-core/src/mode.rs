//! How a lock is held: [`Mode`] for people and fences, [`Permit`] for the one rule that grants.

use std::fmt;

use crate::error::{Error, Result};

/// In which way a lock is held. It comes from the constructor that made the lock, never from weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// A mutex, or the writer of a readers-writer lock.
    Exclusive,
    /// A reader of a readers-writer lock.
    Shared,
    /// Some permits of a semaphore.
    Permits {
        /// How many are held.
        held: u32,
        /// How many there are.
        of: u32,
    },
}

impl Mode {
    /// One word of ASCII letters, digits and `/`: for stores that keep texts.
    ///
    /// ```
    /// use lock_core::Mode;
    ///
    /// assert_eq!(Mode::Permits { held: 2, of: 5 }.encoded(), "p2/5");
    /// assert_eq!(Mode::decode("x"), Some(Mode::Exclusive));
    /// ```
    pub fn encoded(self) -> String {
        match self {
            Mode::Exclusive => "x".to_owned(),
            Mode::Shared => "s".to_owned(),
            Mode::Permits { held, of } => format!("p{held}/{of}"),
        }
    }

    /// What [`encoded`](Mode::encoded) made; `None` for anything else.
    pub fn decode(encoded: &str) -> Option<Mode> {
        match encoded {
            "x" => Some(Mode::Exclusive),
            "s" => Some(Mode::Shared),
            permits => {
                let (held, of) = permits.strip_prefix('p')?.split_once('/')?;
                Some(Mode::Permits { held: held.parse().ok()?, of: of.parse().ok()? })
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Exclusive => f.write_str("exclusive"),
            Mode::Shared => f.write_str("shared"),
            Mode::Permits { held, of } => write!(f, "{held} of {of} permits"),
        }
    }
}

/// How much of a key's capacity a claim takes.
///
/// A claim is granted when the weights of all holders and of all earlier waiters, plus its own, fit the capacity.
/// Mutex: 1 of 1. Semaphore: k of n. Reader: 1 of [`Permit::WHOLE`], writer: all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permit {
    weight: u32,
    capacity: u32,
}

impl Permit {
    /// The capacity of a readers-writer lock.
    pub const WHOLE: u32 = u32::MAX;

    /// The only permit of a mutex.
    pub const MUTEX: Permit = Permit { weight: 1, capacity: 1 };
    /// A reader: one share of the whole.
    pub const READER: Permit = Permit { weight: 1, capacity: Self::WHOLE };
    /// A writer: the whole.
    pub const WRITER: Permit = Permit { weight: Self::WHOLE, capacity: Self::WHOLE };

    /// `weight` of `capacity`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the weight is zero or above the capacity.
    pub fn new(weight: u32, capacity: u32) -> Result<Permit> {
        if weight == 0 || weight > capacity {
            return Err(Error::invalid(format!(
                "permits asked for must be 1 to the capacity: {weight} of {capacity} can never be granted"
            )));
        }
        Ok(Permit { weight, capacity })
    }

    /// What the claim takes.
    pub fn weight(self) -> u32 {
        self.weight
    }

    /// What the key has altogether.
    pub fn capacity(self) -> u32 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_decoded_and_nothing_else_is() {
        for mode in [Mode::Exclusive, Mode::Shared, Mode::Permits { held: 1, of: u32::MAX }] {
            assert_eq!(Mode::decode(&mode.encoded()), Some(mode));
        }
        for wrong in ["", "X", "p", "p1", "p1/", "p/1", "p-1/2"] {
            assert_eq!(Mode::decode(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_permit_fits_its_capacity() {
        assert!(Permit::new(0, 1).is_err());
        assert!(Permit::new(3, 2).is_err());
        assert!(Permit::new(2, 2).is_ok());
    }
}
