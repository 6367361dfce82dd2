//! What a store tells without being asked: [`Event`], through an [`EventSink`].

use std::fmt;
use std::sync::Arc;

use super::{Proof, Ticket};
use crate::hold::Reason;
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
    /// A hold was ended, or a waiting claim removed.
    Revoked(Ticket, Reason),
    /// Somebody waits for what this claim holds.
    Wanted(Ticket),
    /// Events may have been missed.
    Gap,
    /// The session is over.
    Lost(Reason),
}

/// Where a backend sends the events of one session. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    /// A sink that calls a function with each event: for engines and tests.
    pub fn new(receive: impl Fn(Event) + Send + Sync + 'static) -> EventSink {
        EventSink(Arc::new(receive))
    }

    /// Sends an event. Returns at once; events sent after the session's end go nowhere.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}
