//! [`KeyRecord`]: one key's holders, queue and fence.

use std::collections::VecDeque;

use super::step::Step;
use super::{Applied, Command, Holder, Holding, Input, Waiter};
use crate::backend::{Proof, SessionId, Standing, Ticket};

/// One key's record: who holds it, who waits, and how far its tokens have risen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRecord {
    /// The highest token ever granted; 0 before the first.
    pub(super) fence: u64,
    /// The latest clock reading that a change was judged by.
    pub(super) now: u64,
    /// In force while anybody holds or waits.
    pub(super) capacity: u32,
    /// In the order of their grants.
    pub(super) holders: Vec<Holder>,
    /// First come first.
    pub(super) queue: VecDeque<Waiter>,
    /// Claims that were released while a copy of them may still be on its way. They go with their session, which makes
    /// every later copy void.
    pub(super) tombstones: Vec<(SessionId, Ticket)>,
}

impl KeyRecord {
    /// The record of a key that was never held.
    pub fn new() -> KeyRecord {
        KeyRecord::default()
    }

    /// The record of an idle key whose next token is above this one.
    pub fn with_fence(fence: u64) -> KeyRecord {
        KeyRecord { fence, ..KeyRecord::default() }
    }

    /// The highest token ever granted; 0 before the first.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The holders in the order of their grants, also those that have died or expired since.
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// The waiters, first come first, also those that have died since.
    pub fn queue(&self) -> impl ExactSizeIterator<Item = &Waiter> + Clone {
        self.queue.iter()
    }

    /// The capacity in force while anybody holds or waits.
    pub fn capacity(&self) -> Option<u32> {
        (!self.is_idle()).then_some(self.capacity)
    }

    /// Nobody holds the key and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }

    /// Whether the record may be deleted: it is idle, remembers no withdrawn claim, and its fence is behind the clock,
    /// so that a new record's first token is above every one of this record's.
    pub fn is_disposable(&self, input: Input) -> bool {
        self.is_idle()
            && self.tombstones.is_empty()
            && self.fence < input.proposed_token
            && self.now <= input.now
    }

    /// Every session that the record names, each once, in ascending order.
    pub fn sessions(&self) -> Vec<SessionId> {
        let holders = self.holders.iter().map(|holder| holder.session);
        let waiters = self.queue.iter().map(|waiter| waiter.session);
        let withdrawn = self.tombstones.iter().map(|&(session, _)| session);
        let mut sessions: Vec<_> = holders.chain(waiters).chain(withdrawn).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// Whether a holder still counts at this instant.
    pub fn counts(holder: &Holder, now: u64, alive: &dyn Fn(SessionId) -> bool) -> bool {
        match holder.holding {
            Holding::Session { at_least_until } => at_least_until > now || alive(holder.session),
            Holding::Fixed { until, .. } => until > now,
        }
    }

    /// How a claim stands. Whether its session lives is the caller's to know, and so is when it has to ask again: the answer
    /// leaves `recheck_in` open, for a record knows no session's deadline. See
    /// [`Session::renew`](crate::Session::renew) for what belongs there.
    pub fn standing(&self, session: SessionId, ticket: Ticket) -> Standing {
        let held = self.holders.iter().find(|holder| (holder.session, holder.ticket) == (session, ticket));
        match held {
            Some(Holder { holding: Holding::Fixed { returned: true, .. }, .. }) => Standing::Gone,
            Some(holder) => Standing::Holds { token: holder.token, proof: Proof::NONE },
            None if self.queue.iter().any(|waiter| (waiter.session, waiter.ticket) == (session, ticket)) => {
                Standing::Waits { recheck_in: None }
            }
            None => Standing::Gone,
        }
    }

    /// Whether a claim is the first of the queue.
    pub fn is_head(&self, session: SessionId, ticket: Ticket) -> bool {
        self.head() == Some((session, ticket))
    }

    pub(super) fn head(&self) -> Option<(SessionId, Ticket)> {
        self.queue.front().map(|waiter| (waiter.session, waiter.ticket))
    }

    /// Applies a command. `alive` says of a session whether it lives; `false` must be irrevocable.
    pub fn apply(&mut self, input: Input, command: &Command, alive: &dyn Fn(SessionId) -> bool) -> Applied {
        Step::new(self, input, alive).apply(command)
    }
}
