//! What a store implements: [`Backend`] and [`Session`]. Everything else is the engine's.

mod capabilities;
mod claim;
mod event;
mod sight;

use std::any::Any;
use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::capabilities::{BackendInfo, Capabilities, Failover, Fencing, Liveness};
pub use self::claim::{
    Certainty, Claim, ClaimRef, Claimed, Proof, Released, Renewal, Standing, Term, Ticket,
};
pub use self::event::{Event, EventSink};
pub use self::sight::{Cursor, Finding, HolderState, LockState, Page, Query, Severity, WaiterState};
use crate::client::LockClientBuilder;
use crate::error::{Error, Result};
use crate::holder::HolderInfo;
use crate::key::LockKey;
use crate::token::FencingToken;

/// A store of locks: how sessions are opened, and what can be seen and done without one.
///
/// A backend holds only what is peculiar to its store. Waiting, retry, renewal, loss, cancellation, release on drop,
/// tracing and metrics are the engine's, written once.
///
/// Implementations are written under [`#[async_trait]`](crate::async_trait). A store that runs the lock table itself, behind
/// a lock of its own, finds an example in the project's `lock-core/src/memory`.
///
/// Rules for every method:
/// - It may be called from many tasks at once.
/// - Its future may be dropped at any await point; what it had begun may then go on or not.
/// - It makes *one* attempt. The engine sets the deadline and repeats it where that is safe. That deadline can end a call
///   only where it awaits: a method never blocks its thread for long.
/// - Its errors say by [`Error::took_effect`] whether the store may have applied it. When in doubt:
///   [`Effect::Unknown`](crate::Effect::Unknown). The engine adds operation, key and endpoint where they are missing.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// What the store is called, and what it can promise.
    fn info(&self) -> BackendInfo;

    /// The part of the store that keeps this key; a client holds one session for each part it uses.
    fn domain(&self, _key: &LockKey) -> Domain {
        Domain(0)
    }

    /// Opens a session: one unit of liveness for many locks.
    ///
    /// Opening the same [`SessionId`] again is the retry after a lost reply: it finds the session that the first
    /// call made, or makes it. One that it finds and that is over is an error
    /// ([`SessionLost`](crate::ErrorKind::SessionLost)). Events may be sent to the sink before this call returns. Both calls'
    /// sinks lead to the same session, so that either will do; it may be dropped once the session is over.
    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened>;

    /// Looks for settings under which a lock can be lost. What may not be read is a [`Severity::Unknown`] finding,
    /// never an error.
    async fn probe(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Who holds a key and who waits for it. Changes nothing.
    async fn inspect(&self, key: &LockKey) -> Result<LockState>;

    /// Keys that are held or waited for, in a fixed order, page by page, each of at most [`Query::limit`].
    async fn list(&self, query: &Query) -> Result<Page>;

    /// Ends the holds of a key, or only the one with this token, whoever owns them; returns how many it ended.
    /// Waiters stay and the next of them is granted, under a token that still rises.
    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize>;
}

/// One open session in a store.
///
/// `claim` and `renew` never create a session, and check that their own one lives in the same atomic step as they
/// act: a session that was ended stays ended ([`ErrorKind::SessionLost`](crate::ErrorKind::SessionLost)).
#[async_trait]
pub trait Session: Any + Debug + Send + Sync + 'static {
    /// The id under which it was opened.
    fn id(&self) -> SessionId;

    /// Renews the session, and says how each of `known` stands.
    ///
    /// `known` is one chunk chosen by the engine, at most [`Capabilities::verify_chunk`] long; the answer has exactly
    /// one [`Standing`] for each, in the same order; with another number of them the renewal does not count. Both come from
    /// the store itself, never from a cache: a session may renew while the store has forgotten its grants.
    ///
    /// Of a waiting claim it says when to ask again, as [`claim`](Session::claim) does. Nobody else may be there to notice
    /// that the holders and the head of the queue have died together: then it is at once
    /// ([`Standing::Waits`] in zero time), for every waiter.
    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal>;

    /// Asks for a lock, once.
    ///
    /// Idempotent for one session and ticket: sent again it finds its own grant (the same token) or its own place in
    /// the queue. It is thereby also the retry after a lost reply, the recheck, and the repair after an
    /// [`Event::Gap`]. Two tickets of one session on one key are two contenders.
    async fn claim(&self, claim: &Claim) -> Result<Claimed>;

    /// Gives back a hold, or a place in the queue.
    ///
    /// With [`Certainty::MaybeInFlight`], no earlier copy of that claim may ever take effect after this call
    /// succeeded: not even one that is still on its way.
    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released>;

    /// Ends the session and everything it holds or waits for, save what is held for a fixed time; whoever is next is
    /// granted and told, as by a release of each.
    async fn close(&self) -> Result<()>;
}

/// A part of a store with sessions of its own: all of it (`Domain(0)`), or one of at most 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Domain(pub u16);

/// A session's name: 128 random bits, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u128);

impl SessionId {
    /// A new one, from the system's randomness: it cannot be guessed.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<SessionId> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::unavailable("the system gave no random numbers for a session's id").caused_by(error)
        })?;
        Ok(SessionId(u128::from_be_bytes(bytes)))
    }

    /// An id from its number: for codecs and tests.
    pub const fn from_u128(number: u128) -> SessionId {
        SessionId(number)
    }

    /// The id's number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl std::str::FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<SessionId> {
        let valid = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(number) if valid => Ok(SessionId(number)),
            _ => Err(Error::invalid(format!("a session's id is 32 lower-case hex digits, not {text:?}"))),
        }
    }
}

/// How a session is to be opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// The session's name, chosen by the engine.
    pub id: SessionId,
    /// The part of the store it is for.
    pub domain: Domain,
    /// For how long it lives without renewal. The store may change it: see [`Opened::ttl`].
    pub ttl: Duration,
    /// Whose it is, for people.
    pub info: HolderInfo,
    /// When the engine gives up a call that has not been answered. A backend that knows more about the silence can say it before.
    pub call_timeout: Duration,
}

impl SessionOptions {
    /// Options for a session, with five seconds for a call.
    pub fn new(id: SessionId, domain: Domain, ttl: Duration, info: HolderInfo) -> SessionOptions {
        SessionOptions { id, domain, ttl, info, call_timeout: LockClientBuilder::DEFAULT_CALL_TIMEOUT }
    }

    /// With another time for a call.
    #[must_use]
    pub fn call_timeout(mut self, limit: Duration) -> SessionOptions {
        self.call_timeout = limit;
        self
    }
}

/// A session that was opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The session.
    pub session: Arc<dyn Session>,
    /// The TTL that the store put in force.
    pub ttl: Duration,
    /// What the store wants to be taken off the TTL, where that is more than the engine's own margin.
    pub margin: Duration,
}

impl Opened {
    /// A session under the TTL in force.
    pub fn new(session: Arc<dyn Session>, ttl: Duration) -> Opened {
        Opened { session, ttl, margin: Duration::ZERO }
    }

    /// With a margin larger than the engine's own (which is the larger of 1 % and 2 ms).
    #[must_use]
    pub fn margin(mut self, margin: Duration) -> Opened {
        self.margin = margin;
        self
    }
}

// A URL in a file chooses the store: both traits have to stay dyn-compatible.
const _: fn(&dyn Backend, &dyn Session) = |_, _| {};
