//! [`FencedRegister`]: a resource that checks tokens.

use std::sync::{Mutex, PoisonError};

use lock_core::{Fence, FencingToken, Mode};

/// A value that accepts only the highest token so far: what a database does whose rows carry their fence.
#[derive(Debug, Default)]
pub struct FencedRegister<T>(Mutex<(Fence, T)>);

/// The token was older than one that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl<T: Clone> FencedRegister<T> {
    /// A register that holds this value, and has admitted nobody.
    pub fn new(value: T) -> FencedRegister<T> {
        FencedRegister(Mutex::new((Fence::new(), value)))
    }

    /// The value, read under a token: from now on older ones are refused, or what is written next could be based on a value
    /// that an older holder has yet to replace.
    ///
    /// # Errors
    /// [`Refused`] for an older token.
    pub fn read(&self, token: FencingToken) -> Result<T, Refused> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.admit(Mode::Exclusive, token).map_err(|_| Refused)?;
        Ok(inner.1.clone())
    }

    /// Replaces the value under a token.
    ///
    /// # Errors
    /// [`Refused`] for an older token.
    pub fn write(&self, token: FencingToken, value: T) -> Result<(), Refused> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.admit(Mode::Exclusive, token).map_err(|_| Refused)?;
        inner.1 = value;
        Ok(())
    }

    /// The value at the end of the day, whoever looks.
    pub fn value(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}
