//! What can be seen of a store from outside: a key's state, the list of keys, the probe's findings.

use std::fmt;
use std::time::Duration;

use super::{SessionId, Ticket};
use crate::holder::{HolderInfo, Note};
use crate::key::{LockKey, Prefix};
use crate::mode::Mode;
use crate::token::FencingToken;

/// Who holds a key and who waits for it, as the store knew it at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockState {
    /// The key.
    pub key: LockKey,
    /// The holders, in the order of their grants.
    pub holders: Vec<HolderState>,
    /// The waiters, first come first.
    pub queue: Vec<WaiterState>,
    /// The highest token ever granted, where the store still knows it.
    pub fence: Option<FencingToken>,
    /// The capacity in force, while somebody holds or waits.
    pub capacity: Option<u32>,
}

impl LockState {
    /// An idle key.
    pub fn idle(key: LockKey) -> LockState {
        LockState { key, holders: Vec::new(), queue: Vec::new(), fence: None, capacity: None }
    }

    /// Nobody holds it and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }
}

/// One holder of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HolderState {
    /// The session that was granted the lock; it may be over, if the hold has a fixed end.
    pub session: SessionId,
    /// Which of its acquisitions.
    pub ticket: Ticket,
    /// The grant's token.
    pub token: FencingToken,
    /// In which way it is held.
    pub mode: Mode,
    /// When the hold ends if nothing renews it.
    pub remaining: Option<Duration>,
    /// Whether it ends at that instant whatever becomes of its session.
    pub fixed: bool,
    /// Whose the session is.
    pub info: Option<HolderInfo>,
    /// The claim's note.
    pub note: Option<Note>,
}

impl HolderState {
    /// A holder of which nothing more is known.
    pub fn new(session: SessionId, ticket: Ticket, token: FencingToken, mode: Mode) -> HolderState {
        HolderState { session, ticket, token, mode, remaining: None, fixed: false, info: None, note: None }
    }

    /// Says when the hold ends, and whether that is fixed.
    #[must_use]
    pub fn ends_in(mut self, remaining: Option<Duration>, fixed: bool) -> HolderState {
        (self.remaining, self.fixed) = (remaining, fixed);
        self
    }

    /// Says whose it is, and what they left to say.
    #[must_use]
    pub fn described(mut self, info: Option<HolderInfo>, note: Option<Note>) -> HolderState {
        (self.info, self.note) = (info, note);
        self
    }
}

/// One waiter for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaiterState {
    /// The session that waits.
    pub session: SessionId,
    /// Which of its acquisitions.
    pub ticket: Ticket,
    /// In which way it wants to hold the lock.
    pub mode: Mode,
    /// Whose the session is.
    pub info: Option<HolderInfo>,
    /// The claim's note.
    pub note: Option<Note>,
}

impl WaiterState {
    /// A waiter of which nothing more is known.
    pub fn new(session: SessionId, ticket: Ticket, mode: Mode) -> WaiterState {
        WaiterState { session, ticket, mode, info: None, note: None }
    }

    /// Says whose it is, and what they left to say.
    #[must_use]
    pub fn described(mut self, info: Option<HolderInfo>, note: Option<Note>) -> WaiterState {
        (self.info, self.note) = (info, note);
        self
    }
}

/// Which keys to list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// The client's prefix: only keys under exactly this one.
    pub prefix: Option<Prefix>,
    /// Only keys whose name begins so.
    pub starting_with: String,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// How many at most.
    pub limit: usize,
}

impl Query {
    /// The first page of the keys whose name begins so.
    pub fn new(prefix: Option<Prefix>, starting_with: impl Into<String>, limit: usize) -> Query {
        Query { prefix, starting_with: starting_with.into(), after: None, limit: limit.max(1) }
    }

    /// The page after the one that ended here.
    #[must_use]
    pub fn after(mut self, cursor: Option<Cursor>) -> Query {
        self.after = cursor;
        self
    }

    /// Whether a key is among those asked for, the page aside.
    pub fn matches(&self, key: &LockKey) -> bool {
        key.prefix() == self.prefix.as_ref() && key.as_str().starts_with(&self.starting_with)
    }
}

/// Where a page of a list ended: opaque, and only for the store that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor in the store's own words.
    pub fn new(text: impl Into<String>) -> Cursor {
        Cursor(text.into())
    }

    /// The store's own words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The keys, in the store's order.
    pub keys: Vec<LockKey>,
    /// Where to go on; `None` at the end. A page may be short, or empty, without being the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// A page.
    pub fn new(keys: Vec<LockKey>, next: Option<Cursor>) -> Page {
        Page { keys, next }
    }
}

/// Something that the probe found in the store's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The setting, as the store calls it.
    pub setting: String,
    /// What it means for a lock, and what to do.
    pub message: String,
}

impl Finding {
    /// A finding.
    pub fn new(severity: Severity, setting: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { severity, setting: setting.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Unsafe => "unsafe",
            Severity::Unknown => "unknown",
        };
        write!(f, "{word}: {}: {}", self.setting, self.message)
    }
}

/// How bad a finding is. Strict mode refuses [`Severity::Unsafe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// The setting may not be read: somebody has to assert it.
    Unknown,
    /// Under this setting a lock can be lost.
    Unsafe,
}
