//! What a store tells without being asked: [`Event`], through an [`EventSink`].

use std::fmt;
use std::sync::Arc;

use super::{ClaimRef, Proof, Ticket};
use crate::hold::Reason;
use crate::key::LockKey;
use crate::table::{News, Notice};
use crate::token::FencingToken;

/// News from the store for one session. Events may overtake replies, also that of `open`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A waiting claim was granted.
    Granted {
        /// Which acquisition.
        ticket: Ticket,
        /// The grant's token.
        token: FencingToken,
        /// As in [`Claimed::Granted`](super::Claimed::Granted).
        proof: Proof,
    },
    /// Something changed for a waiting claim: claim it again to learn how it stands.
    Recheck(Ticket),
    /// A hold was ended, or a waiting claim removed. Where a store cannot tell, its holder learns it by the next
    /// renewal, as [`Reason::Forgotten`].
    Revoked(Ticket, Reason),
    /// Somebody waits for what this claim holds, or tried to get it; or it is the head of the queue, and somebody behind it has claimed again.
    /// It names the key as well: the engine may not know the claim, and then has to release it. Never of a hold with a
    /// fixed end: its engine has forgotten it, and would release it.
    Wanted(ClaimRef),
    /// Events may have been missed.
    Gap,
    /// The session is over.
    Lost(Reason),
}

impl Event {
    /// What a notice of the lock table tells a session about one of its claims on this key.
    pub fn from_notice(key: &LockKey, notice: &Notice) -> Event {
        let ticket = notice.ticket;
        match notice.news {
            News::Granted { token } => Event::Granted { ticket, token, proof: Proof::NONE },
            News::Recheck => Event::Recheck(ticket),
            News::Revoked(reason) => Event::Revoked(ticket, reason),
            News::Wanted => Event::Wanted(ClaimRef::new(key.clone(), ticket)),
        }
    }
}

/// Where a backend sends the events of one session. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    /// A sink that calls a function with each event: for engines and tests.
    pub fn new(receive: impl Fn(Event) + Send + Sync + 'static) -> EventSink {
        EventSink(Arc::new(receive))
    }

    /// Sends an event. Returns at once and never calls the backend, so that it may be called under a lock of the
    /// backend's own; events sent after the session's end go nowhere.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}
