//! What an application sees of a lock, whatever the store: [`DistributedLock`] and [`LockGuard`].

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;

use crate::backend::{ClaimRef, Proof, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::{Busy, End, HoldState};
use crate::key::LockKey;
use crate::mode::Mode;
use crate::options::AcquireOptions;
use crate::token::FencingToken;

/// How a hold ends, once it does: see [`LockGuard::ending`].
pub type Ending = Pin<Box<dyn Future<Output = End> + Send>>;

/// One named lock of some store.
///
/// The concrete types have inherent methods of the same names, so that this trait has to be imported only by code that
/// is generic over stores or tests.
#[async_trait]
pub trait DistributedLock: Debug + Send + Sync {
    /// The lock's name.
    fn key(&self) -> &LockKey;

    /// Waits until the lock is granted, for as long as the client's default says; without one, without bound.
    ///
    /// # Errors
    /// [`WaitTimedOut`](ErrorKind::WaitTimedOut) when patience is over; otherwise what the store had to say.
    ///
    /// # Cancel Safety
    /// Dropping the future withdraws the claim: whatever the store granted meanwhile is released.
    async fn acquire(&self) -> Result<Box<dyn LockGuard>>;

    /// As [`acquire`](DistributedLock::acquire), with options.
    async fn acquire_with(&self, options: &AcquireOptions) -> Result<Box<dyn LockGuard>>;

    /// Exactly one attempt, without waiting and without transport retry.
    ///
    /// # Errors
    /// A store that is not reached is an error, never [`Busy`]. After an unknown outcome the claim is released.
    ///
    /// # Cancel Safety
    /// As [`acquire`](DistributedLock::acquire).
    async fn try_acquire(&self) -> Result<Result<Box<dyn LockGuard>, Busy>>;
}

/// A lock that is held. Dropping it releases the lock in the background.
#[async_trait]
#[must_use = "a guard that is dropped at once releases the lock at once"]
pub trait LockGuard: Debug + Send + Sync + 'static {
    /// The lock's name.
    fn key(&self) -> &LockKey;

    /// In which way it is held.
    fn mode(&self) -> Mode;

    /// The token, fixed at the grant. Pass it along with every write that the lock protects.
    fn token(&self) -> FencingToken;

    /// How it stands at this instant, by the local clock: no round trip.
    fn state(&self) -> HoldState;

    /// Resolves when the hold ends, to how it ended; at once if that happened earlier. It outlives the guard.
    fn ending(&self) -> Ending;

    /// What the store granted: for a store's own extras.
    fn grant(&self) -> &Grant;

    /// Gives the lock back, and says how the hold ended: `Lost` if that had happened before.
    ///
    /// # Errors
    /// When no answer came within the client's `call_timeout`. The engine goes on until the store has answered or the
    /// TTL has ended; there is nothing to repeat.
    ///
    /// # Cancel Safety
    /// Dropping the future changes nothing: the release goes on.
    async fn release(self: Box<Self>) -> Result<End>;
}

/// What a store granted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The scheme of the store that granted it.
    pub scheme: &'static str,
    /// The session that was granted the lock.
    pub session: SessionId,
    /// Which claim of that session.
    pub claim: ClaimRef,
    /// The grant's token.
    pub token: FencingToken,
    proof: Proof,
}

impl Grant {
    pub(crate) fn new(
        scheme: &'static str,
        session: SessionId,
        claim: ClaimRef,
        token: FencingToken,
        proof: Proof,
    ) -> Grant {
        Grant { scheme, session, claim, token, proof }
    }

    /// The store's own proof of the grant.
    ///
    /// # Errors
    /// [`WrongBackend`](ErrorKind::WrongBackend) when the grant has no proof of this type: another store made it.
    pub fn proof<T: Send + Sync + 'static>(&self) -> Result<&T> {
        self.proof.downcast_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::WrongBackend,
                format!("this grant was made by the {} store; use that store's own function", self.scheme),
            )
            .on(&self.claim.key)
        })
    }
}

// A URL in a file chooses the store: both traits have to stay dyn-compatible.
const _: fn(&dyn DistributedLock, &dyn LockGuard) = |_, _| {};
