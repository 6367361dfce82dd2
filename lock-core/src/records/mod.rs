//! The adapter for stores that offer only compare-and-set of a record: the lock table runs in the client.
//!
//! A store implements [`RecordStore`] and [`RecordSession`], which know nothing of locks; [`Records`] makes a
//! [`Backend`](crate::Backend) of them. The file store is the first.
//!
//! The order of two steps makes it safe without a transaction over two records: a session whose time is over is ended
//! irrevocably ([`RecordStore::end_if_over`]) *before* the key's record is written by somebody who takes over from it.

mod backend;
mod session;
mod transact;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::backend::Records;
use crate::backend::{BackendInfo, EventSink, Finding, Page, Query, SessionId, SessionOptions, Ticket};
use crate::error::Result;
use crate::holder::HolderInfo;
use crate::key::LockKey;
use crate::table::{Input, Notice};

/// A store of records that can be replaced if they are still the ones that were read.
///
/// Implementations are written under [`#[async_trait]`](crate::async_trait), as of all traits here.
#[async_trait]
pub trait RecordStore: Debug + Send + Sync + 'static {
    /// What the store is called, and what it can promise. The table brings [`fair`](crate::Capabilities::fair) and
    /// [`fixed_terms`](crate::Capabilities::fixed_terms); [`push`](crate::Capabilities::push) is the store's, if its
    /// [`notify`](RecordStore::notify) reaches every session.
    fn info(&self) -> BackendInfo;

    /// The readings by which the next command is judged. `now` may never go back in the life of the store's data, and
    /// is one clock for all its clients: the server's, or the boot time of the one host that they share.
    async fn input(&self) -> Result<Input>;

    /// A key's record. One that was never written has the store's version for absence and no bytes.
    async fn read(&self, key: &LockKey) -> Result<Versioned>;

    /// Replaces a key's record if its version is still the expected one, in one atomic step.
    async fn write(&self, key: &LockKey, expected: Version, record: &[u8]) -> Result<Written>;

    /// Keys that have a record, in a fixed order, at most [`Query::limit`]; idle ones may be among them.
    async fn list(&self, query: &Query) -> Result<Page>;

    /// Where a key's record is kept: for the error about a damaged one.
    fn place(&self, key: &LockKey) -> String;

    /// Opens a session, or finds the one that an earlier call with the same id opened: that was made for the same session
    /// of the same engine, so that either sink will do. One that it finds and that is over is an error
    /// ([`SessionLost`](crate::ErrorKind::SessionLost)), never opened again.
    ///
    /// An ended session's record and sink may be dropped once no key's record names it: an unknown session is over.
    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Arc<dyn RecordSession>>;

    /// How a session looks from outside. Changes nothing.
    async fn sight(&self, session: SessionId) -> Result<Sight>;

    /// Ends a session if its time is over, irrevocably, and says whether it lives. An unknown session is over. Look and
    /// end are one atomic step: a renewal comes before it, and counts, or after it, and fails.
    async fn end_if_over(&self, session: SessionId) -> Result<bool>;

    /// Tells a session something about its claim on this key, if there is a way to: [`Event::from_notice`] into its
    /// sink. Best effort: a notice that is lost is repaired by the next renewal, within a third of the waiter's TTL. A
    /// store that tells nobody has [`poll`](RecordStore::poll) instead.
    ///
    /// [`Event::from_notice`]: crate::Event::from_notice
    async fn notify(&self, _key: &LockKey, _notice: &Notice) {}

    /// How often a waiter asks again, in a store whose [`notify`](RecordStore::notify) does not reach every session; so
    /// long can a hand-over take. `None` where it does.
    fn poll(&self) -> Option<Duration> {
        None
    }

    /// As [`Backend::probe`](crate::Backend::probe).
    async fn probe(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

/// One session of a [`RecordStore`].
#[async_trait]
pub trait RecordSession: Debug + Send + Sync + 'static {
    /// The id under which it was opened.
    fn id(&self) -> SessionId;

    /// The TTL in force.
    fn ttl(&self) -> Duration;

    /// Renews it, and returns whether it lives. One that was ended stays ended, and so does one of which
    /// [`lives`](RecordSession::lives) or [`RecordStore::end_if_over`] once said that it is over.
    async fn renew(&self) -> Result<bool>;

    /// Whether it has neither been ended nor expired. `false` is final: commands are judged by it.
    async fn lives(&self) -> Result<bool>;

    /// Ends it.
    async fn close(&self) -> Result<()>;

    /// Sends [`Event::Recheck`](crate::Event::Recheck) for a ticket as soon as one of these sessions is over: also
    /// when it is over already. Replaces what was watched for that ticket; best effort: without it, whoever waits looks
    /// again when a lease would have ended.
    fn watch(&self, _ticket: Ticket, _sessions: &[SessionId]) {}

    /// Stops watching for a ticket.
    fn unwatch(&self, _ticket: Ticket) {}
}

/// A record's version: whatever changes with every write and never comes back, a counter or a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u128);

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its version.
    pub version: Version,
    /// Its bytes; empty where there is none.
    pub bytes: Vec<u8>,
    /// The smallest fence that a record made anew has to begin with, where this one is absent: 0 in a store that never
    /// removes a record.
    pub floor: u64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The record was replaced.
    Done,
    /// Somebody else was quicker: nothing was written, and this is the record now.
    Conflict(Versioned),
}

/// A session from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sight {
    /// Whether it lives.
    pub lives: bool,
    /// When it ends unless it is renewed.
    pub remaining: Option<Duration>,
    /// Whose it is.
    pub info: Option<HolderInfo>,
}

impl Sight {
    /// A session that is over.
    pub fn over() -> Sight {
        Sight { lives: false, remaining: None, info: None }
    }

    /// A session that lives for this long unless it is renewed.
    pub fn living(remaining: Duration, info: HolderInfo) -> Sight {
        Sight { lives: true, remaining: Some(remaining), info: Some(info) }
    }
}
