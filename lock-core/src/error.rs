//! [`Error`]: what failed, on which key and endpoint, whether it may have taken effect, what to do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::hold::{Busy, Reason};
use crate::key::LockKey;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The one error of every store and of the engine.
///
/// ```
/// use lock_core::{Effect, Error, ErrorKind, Operation};
///
/// let error = Error::new(ErrorKind::Unavailable, "connection refused")
///     .during(Operation::Claim)
///     .at("redis://db1:6379")
///     .effect(Effect::NotApplied);
/// assert!(error.is_retryable());
/// assert_eq!(error.to_string(), "claim at redis://db1:6379: store unavailable: connection refused");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<Operation>,
    key: Option<LockKey>,
    endpoint: Option<String>,
    effect: Effect,
    retryable: bool,
    /// Shared: many waiters may be told of one failed attempt to open their session.
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with a message that says what failed and what to do.
    ///
    /// Retryable if the kind usually passes ([`ErrorKind::usually_passes`]); its effect is
    /// [`Effect::NotApplied`] until [`Error::effect`] says otherwise, except for [`ErrorKind::TimedOut`], which
    /// begins as [`Effect::Unknown`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        let retryable = kind.usually_passes();
        let effect = match kind {
            ErrorKind::TimedOut => Effect::Unknown,
            _ => Effect::NotApplied,
        };
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            key: None,
            endpoint: None,
            effect,
            retryable,
            source: None,
        }))
    }

    /// [`ErrorKind::InvalidInput`]: the caller's argument is wrong, nothing was sent.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message)
    }

    /// [`ErrorKind::Unsupported`]: this store cannot do what was asked.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Unavailable`]: the store did not answer or refused the connection.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unavailable, message)
    }

    /// [`ErrorKind::SessionLost`]: the session ended, for this reason.
    pub fn session_lost(reason: Reason) -> Error {
        Error::new(ErrorKind::SessionLost(reason), "acquire again: the next attempt opens a new session")
    }

    /// Names the operation, unless one is named already: the innermost knows best.
    #[must_use]
    pub fn during(mut self, operation: Operation) -> Error {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Names the key, unless one is named already.
    #[must_use]
    pub fn on(mut self, key: &LockKey) -> Error {
        self.0.key.get_or_insert_with(|| key.clone());
        self
    }

    /// Names the endpoint (without any password), unless one is named already.
    #[must_use]
    pub fn at(mut self, endpoint: impl Into<String>) -> Error {
        self.0.endpoint.get_or_insert_with(|| endpoint.into());
        self
    }

    /// Says whether the store may have applied the operation.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Error {
        self.0.effect = effect;
        self
    }

    /// Says whether the same call may succeed later, where it differs from the kind's habit.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Error {
        self.0.retryable = retryable;
        self
    }

    /// Keeps the driver's or the system's error below this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What it says besides its context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was being done.
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// On which key.
    pub fn key(&self) -> Option<&LockKey> {
        self.0.key.as_ref()
    }

    /// At which endpoint, without secrets.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// Whether the store may have applied the operation.
    pub fn took_effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Who was in the way, when the kind is [`ErrorKind::WaitTimedOut`].
    pub fn busy(&self) -> Option<&Busy> {
        match &self.0.kind {
            ErrorKind::WaitTimedOut(busy) => Some(busy),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, operation, key, endpoint, effect, .. } = &*self.0;
        let mut context = false;
        if let Some(operation) = operation {
            write!(f, "{operation}")?;
            context = true;
        }
        if let Some(key) = key {
            write!(f, "{}{key}", if context { " " } else { "" })?;
            context = true;
        }
        if let Some(endpoint) = endpoint {
            write!(f, "{}at {endpoint}", if context { " " } else { "" })?;
            context = true;
        }
        write!(f, "{}{kind}", if context { ": " } else { "" })?;
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        match effect {
            Effect::Unknown => f.write_str(" (it may have taken effect)"),
            Effect::NotApplied => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("operation", &self.0.operation)
            .field("key", &self.0.key)
            .field("endpoint", &self.0.endpoint)
            .field("effect", &self.0.effect)
            .field("retryable", &self.0.retryable)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

/// What went wrong, by what a caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is wrong: a key too long, a TTL out of bounds. Nothing was sent.
    #[error("invalid input")]
    InvalidInput,
    /// A URL or a combination of settings cannot work.
    #[error("misconfigured")]
    Misconfigured,
    /// This store, or this version of it, cannot do what was asked.
    #[error("not supported by this store")]
    Unsupported,
    /// The patience given to `acquire` is over; nothing is held.
    #[error("timed out waiting, {0}")]
    WaitTimedOut(Box<Busy>),
    /// The session ended before the operation did. Retryable: the next call opens a new one.
    #[error("session lost ({0})")]
    SessionLost(Reason),
    /// The store did not answer, or refused the connection.
    #[error("store unavailable")]
    Unavailable,
    /// One call to the store took longer than its deadline.
    #[error("no answer in time")]
    TimedOut,
    /// The store is out of memory or space, or may not be written.
    #[error("store cannot write")]
    Exhausted,
    /// Wrong credentials, missing rights, a certificate that is not accepted.
    #[error("refused")]
    Denied,
    /// Strict mode: the probe found a setting under which a lock can be lost.
    #[error("unsafe settings")]
    Unsafe,
    /// The key is in use with another capacity. Fails until it is idle: an idle key adopts a new one.
    #[error("the key is in use with a capacity of {in_force}")]
    CapacityMismatch {
        /// The capacity under which it is held or waited for.
        in_force: u32,
    },
    /// The key's next fencing token would be above [`FencingToken::MAX`](crate::FencingToken::MAX).
    #[error("fencing tokens exhausted")]
    FenceExhausted,
    /// The claim was released or withdrawn before this copy of it arrived.
    #[error("claim withdrawn")]
    Withdrawn,
    /// What is stored is not what this library writes.
    #[error("stored data damaged")]
    Damaged,
    /// The store or a backend broke its contract.
    #[error("protocol violation")]
    Protocol,
    /// The grant was made by another store.
    #[error("grant of another store")]
    WrongBackend,
    /// The client was shut down.
    #[error("client shut down")]
    ShutDown,
}

impl ErrorKind {
    /// Whether the same call is usually worth repeating later.
    pub fn usually_passes(&self) -> bool {
        matches!(
            self,
            ErrorKind::WaitTimedOut(_)
                | ErrorKind::SessionLost(_)
                | ErrorKind::Unavailable
                | ErrorKind::TimedOut
        )
    }
}

/// What was being done when an error happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Connecting to a store, with its probe.
    Connect,
    /// Opening a session.
    Open,
    /// Acquiring a lock, as the caller sees it.
    Acquire,
    /// One claim sent to the store.
    Claim,
    /// Releasing a hold or a place in the queue.
    Release,
    /// Renewing a session.
    Renew,
    /// Closing a session.
    Close,
    /// Reading a key's state.
    Inspect,
    /// Listing keys.
    List,
    /// Ending holds by force.
    ForceRelease,
    /// Reading the store's settings.
    Probe,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Connect => "connect",
            Operation::Open => "open session",
            Operation::Acquire => "acquire",
            Operation::Claim => "claim",
            Operation::Release => "release",
            Operation::Renew => "renew session",
            Operation::Close => "close session",
            Operation::Inspect => "inspect",
            Operation::List => "list",
            Operation::ForceRelease => "force-release",
            Operation::Probe => "probe",
        })
    }
}

/// Whether a failed operation may have happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// The store did not apply it, and never will.
    NotApplied,
    /// It may have been applied, or may still be.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_everything_that_is_known() {
        let error = Error::new(ErrorKind::TimedOut, "no reply within 2s; is the server overloaded?")
            .during(Operation::Release)
            .on(&LockKey::new("a\nb").unwrap())
            .at("etcd://e1:2379")
            .caused_by(std::io::Error::other("reset"));
        assert_eq!(
            error.to_string(),
            "release \"a\\nb\" at etcd://e1:2379: no answer in time: no reply within 2s; is the server \
             overloaded? (it may have taken effect)"
        );
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("reset"));
        assert_eq!(error.took_effect(), Effect::Unknown);
    }

    #[test]
    fn the_innermost_context_wins() {
        let inner = Error::unavailable("x").during(Operation::Claim).at("one");
        let outer = inner.during(Operation::Acquire).at("two");
        assert_eq!((outer.operation(), outer.endpoint()), (Some(Operation::Claim), Some("one")));
    }
}
