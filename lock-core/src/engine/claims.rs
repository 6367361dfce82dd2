//! The claims of one session: who waits, who holds, and what the store said about them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::hold::Hold;
use super::waiting::{News, Waiting};
use crate::backend::{ClaimRef, Event, Proof, Standing, Ticket};
use crate::clock::BootTime;
use crate::hold::Reason;
use crate::key::LockKey;
use crate::token::FencingToken;

/// Every claim of a session that is not settled yet, by ticket.
#[derive(Debug, Default)]
pub(super) struct Claims {
    entries: BTreeMap<Ticket, Entry>,
    /// Whatever is verified, in the order of its last verification, with that instant.
    ring: VecDeque<(Ticket, BootTime)>,
    /// Holds that end at a fixed age.
    ends: BTreeSet<(BootTime, Ticket)>,
    over: Option<Reason>,
}

#[derive(Debug)]
enum Entry {
    Waiting(Waiting),
    Holding(Arc<Hold>),
    /// Its release is under way: not verified any more, and no orphan either. A hold that is given back still ends by
    /// its lease and by its age: the answer may take longer than either.
    Leaving(LockKey, Option<Arc<Hold>>),
}

/// What the heartbeat has to do about an event.
#[derive(Debug)]
pub(super) enum Chore {
    /// Nobody owns this grant: release it.
    Orphan(ClaimRef),
    /// The hold was lost, and has to be released to be sure.
    Drop(Arc<Hold>, Reason),
    /// It has been held for so long that its guard may have been leaked: say so.
    Suspect(Arc<Hold>),
}

/// A claim as it was when a renewal was sent that asks about it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) claim: ClaimRef,
    held: bool,
    verified: BootTime,
}

impl Claims {
    pub(super) fn enter(&mut self, ticket: Ticket, key: LockKey) -> Result<(), Reason> {
        if let Some(reason) = self.over {
            return Err(reason);
        }
        self.entries.insert(ticket, Entry::Waiting(Waiting::new(key)));
        Ok(())
    }

    /// What is new for a waiting claim; otherwise whom to wake.
    pub(super) fn poll_news(&mut self, ticket: Ticket, waker: &Waker) -> Option<News> {
        let Some(Entry::Waiting(waiting)) = self.entries.get_mut(&ticket) else {
            return Some(News::Over(self.over.unwrap_or(Reason::SessionEnded)));
        };
        if let Some(news) = waiting.news.take() {
            return Some(news);
        }
        match &mut waiting.waker {
            Some(known) => known.clone_from(waker),
            None => waiting.waker = Some(waker.clone()),
        }
        None
    }

    /// Whether the session is over for a claim that is under way; otherwise whom to wake.
    pub(super) fn poll_over(&mut self, ticket: Ticket, waker: &Waker) -> Poll<Reason> {
        match self.entries.get_mut(&ticket) {
            Some(Entry::Waiting(waiting)) => {
                waiting.waker = Some(waker.clone());
                Poll::Pending
            }
            _ => Poll::Ready(self.over.unwrap_or(Reason::SessionEnded)),
        }
    }

    pub(super) fn over(&self) -> Option<Reason> {
        self.over
    }

    /// Takes a grant that has arrived for a waiting claim, and nothing else: it beats every other answer.
    pub(super) fn take_grant(&mut self, ticket: Ticket) -> Option<(FencingToken, Proof)> {
        let Some(Entry::Waiting(waiting)) = self.entries.get_mut(&ticket) else { return None };
        match waiting.news.take() {
            Some(News::Granted { token, proof }) => Some((token, proof)),
            other => {
                waiting.news = other;
                None
            }
        }
    }

    /// Why a grant that is about to be taken is over already.
    pub(super) fn revoked(&self, ticket: Ticket) -> Option<Reason> {
        match self.entries.get(&ticket) {
            Some(Entry::Waiting(Waiting { news: Some(News::Revoked(reason)), .. })) => Some(*reason),
            _ => None,
        }
    }

    pub(super) fn queued(&mut self, ticket: Ticket, now: BootTime) {
        if let Some(Entry::Waiting(waiting)) = self.entries.get_mut(&ticket) {
            if !std::mem::replace(&mut waiting.queued, true) {
                self.enlist(ticket, now);
            }
        }
    }

    pub(super) fn hold(&mut self, ticket: Ticket, hold: &Arc<Hold>) {
        if let Some(at) = hold.ends_at() {
            self.ends.insert((at, ticket));
        }
        let (queued, wanted) = match self.entries.insert(ticket, Entry::Holding(hold.clone())) {
            Some(Entry::Waiting(waiting)) => (waiting.queued, waiting.wanted),
            _ => (false, false),
        };
        // One that waited in the queue is on the ring already.
        if !queued {
            self.enlist(ticket, hold.began());
        }
        if wanted {
            hold.wanted();
        }
    }

    /// The claim is being released: it is neither verified nor an orphan until that is settled.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        *entry = match entry {
            Entry::Waiting(waiting) => Entry::Leaving(waiting.key.clone(), None),
            Entry::Holding(hold) => Entry::Leaving(hold.claim().key.clone(), Some(hold.clone())),
            Entry::Leaving(..) => return,
        };
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        if let Some(Entry::Holding(hold) | Entry::Leaving(_, Some(hold))) = self.entries.remove(&ticket) {
            if let Some(at) = hold.ends_at() {
                self.ends.remove(&(at, ticket));
            }
        }
    }

    /// Every live hold.
    pub(super) fn holds(&self) -> Vec<Arc<Hold>> {
        let held = |entry: &Entry| match entry {
            Entry::Holding(hold) => Some(hold.clone()),
            _ => None,
        };
        self.entries.values().filter_map(held).collect()
    }

    /// The keys of everything that is held, or whose release is not settled.
    pub(super) fn keys(&self) -> Vec<LockKey> {
        let key = |entry: &Entry| match entry {
            // Its own future withdraws it, and has perhaps not been polled since the client closes.
            Entry::Waiting(_) => None,
            Entry::Holding(hold) => Some(hold.claim().key.clone()),
            Entry::Leaving(key, _) => Some(key.clone()),
        };
        self.entries.values().filter_map(key).collect()
    }

    /// A few of the holds that began first: tickets count up.
    pub(super) fn oldest_holds(&self, count: usize) -> Vec<Arc<Hold>> {
        let held = |entry: &Entry| match entry {
            Entry::Holding(hold) => Some(hold.clone()),
            _ => None,
        };
        self.entries.values().filter_map(held).take(count).collect()
    }

    /// The next chunk to verify: whatever was verified longest ago, holds and places in the queue alike.
    ///
    /// It has to come back, by [`Claims::stands`] or by [`Claims::unasked`].
    pub(super) fn next_chunk(&mut self, size: usize) -> Vec<Asked> {
        let mut chunk = Vec::new();
        while chunk.len() < size {
            let Some((ticket, verified)) = self.ring.pop_front() else { break };
            match self.entries.get(&ticket) {
                Some(Entry::Holding(hold)) => {
                    chunk.push(Asked { claim: hold.claim().clone(), held: true, verified });
                }
                Some(Entry::Waiting(waiting)) => {
                    let claim = ClaimRef::new(waiting.key.clone(), ticket);
                    chunk.push(Asked { claim, held: false, verified });
                }
                Some(Entry::Leaving(..)) | None => {}
            }
        }
        chunk
    }

    /// The renewal failed: what it asked about is asked about first by the next one.
    pub(super) fn unasked(&mut self, asked: Vec<Asked>) {
        for asked in asked.into_iter().rev() {
            self.ring.push_front((asked.claim.ticket, asked.verified));
        }
    }

    /// How long to wait until the next chunk, so that each claim is verified within `every` of the last time.
    ///
    /// The ring is in the order of verification. The k-th chunk from its front has to be asked for within k intervals, and
    /// before its first claim is due.
    pub(super) fn pace(&self, now: BootTime, every: Duration, size: usize) -> Duration {
        let chunks = self.ring.iter().step_by(size.max(1)).zip(1_u32..);
        let paces = chunks.map(|(&(_, verified), nth)| (verified + every).since(now) / nth);
        paces.min().unwrap_or(every)
    }

    /// Tickets that are settled stay in the ring until they come to its front; they must not outgrow the others.
    fn enlist(&mut self, ticket: Ticket, verified: BootTime) {
        if self.ring.len() >= 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.ring.retain(|(ticket, _)| entries.contains_key(ticket));
        }
        self.ring.push_back((ticket, verified));
    }

    /// Takes note of how a claim stands, by a renewal that was sent at this instant.
    pub(super) fn stands(&mut self, asked: &Asked, standing: Standing, sent: BootTime) -> Option<Chore> {
        if self.entries.contains_key(&asked.claim.ticket) {
            self.enlist(asked.claim.ticket, sent);
        }
        let ticket = asked.claim.ticket;
        match (self.entries.get_mut(&ticket)?, standing) {
            // Its turn to be asked about comes again, like that of any other.
            (_, Standing::Unknown) => None,
            (Entry::Holding(hold), standing) => match standing {
                Standing::Holds { token, .. } if token == hold.token() => {
                    hold.verified(sent);
                    // Here, where each hold comes by once in two thirds of a TTL, and nobody has to look through them all.
                    hold.seems_leaked(sent).then(|| Chore::Suspect(hold.clone()))
                }
                // It was still waiting when the renewal was sent: the answer may be older than the grant.
                Standing::Waits { .. } | Standing::Gone if !asked.held => None,
                _ => Some(Chore::Drop(hold.clone(), Reason::Forgotten)),
            },
            (Entry::Waiting(waiting), Standing::Holds { token, proof }) => {
                waiting.tell(News::Granted { token, proof });
                None
            }
            (Entry::Waiting(waiting), Standing::Waits { recheck_in: Some(time) }) => {
                waiting.tell(News::RecheckIn(time));
                None
            }
            (Entry::Waiting(_), Standing::Waits { .. }) | (Entry::Leaving(..), _) => None,
            (Entry::Waiting(waiting), Standing::Gone) => {
                waiting.tell(News::Gone);
                None
            }
        }
    }

    /// Takes note of an event about one claim.
    pub(super) fn receive(&mut self, event: Event, now: BootTime) -> Option<Chore> {
        match event {
            Event::Granted { ticket, token, proof } => match self.entries.get_mut(&ticket) {
                Some(Entry::Waiting(waiting)) => {
                    waiting.granted(token, proof);
                    None
                }
                Some(Entry::Holding(hold)) if hold.token() == token => {
                    hold.verified(now);
                    None
                }
                // Two grants for one ticket: the store contradicts itself, so neither is to be relied on.
                Some(Entry::Holding(hold)) => Some(Chore::Drop(hold.clone(), Reason::Forgotten)),
                // Late news of a claim that is being released, or was: a claim is forgotten only when its release is
                // settled.
                Some(Entry::Leaving(..)) | None => None,
            },
            Event::Recheck(ticket) => {
                if let Some(Entry::Waiting(waiting)) = self.entries.get_mut(&ticket) {
                    waiting.tell(News::Recheck);
                }
                None
            }
            Event::Revoked(ticket, reason) => match self.entries.get_mut(&ticket) {
                Some(Entry::Waiting(waiting)) => {
                    waiting.tell(News::Revoked(reason));
                    None
                }
                Some(Entry::Holding(hold)) => Some(Chore::Drop(hold.clone(), reason)),
                _ => None,
            },
            Event::Wanted(claim) => match self.entries.get_mut(&claim.ticket) {
                None => {
                    // Known from now on: one release is enough.
                    self.entries.insert(claim.ticket, Entry::Leaving(claim.key.clone(), None));
                    Some(Chore::Orphan(claim))
                }
                Some(Entry::Holding(hold)) => {
                    hold.wanted();
                    None
                }
                Some(Entry::Waiting(waiting)) => {
                    waiting.wanted = true;
                    None
                }
                Some(Entry::Leaving(..)) => None,
            },
            Event::Gap => {
                for entry in self.entries.values_mut() {
                    if let Entry::Waiting(waiting) = entry {
                        waiting.tell(News::Recheck);
                    }
                }
                None
            }
            Event::Lost(_) => None,
        }
    }

    /// When the first hold reaches its greatest age.
    pub(super) fn next_end(&self) -> Option<BootTime> {
        self.ends.first().map(|&(at, _)| at)
    }

    /// The holds that have reached it.
    pub(super) fn aged(&mut self, now: BootTime) -> Vec<Arc<Hold>> {
        let mut aged = Vec::new();
        while let Some(&(at, ticket)) = self.ends.first().filter(|&&(at, _)| at <= now) {
            self.ends.remove(&(at, ticket));
            if let Some(Entry::Holding(hold) | Entry::Leaving(_, Some(hold))) = self.entries.get(&ticket) {
                aged.push(hold.clone());
            }
        }
        aged
    }

    /// The session is over: everybody is told, nobody may enter any more.
    pub(super) fn end(&mut self, reason: Reason) -> Vec<Arc<Hold>> {
        self.over.get_or_insert(reason);
        self.ends.clear();
        let mut holds = Vec::new();
        for entry in std::mem::take(&mut self.entries).into_values() {
            match entry {
                Entry::Waiting(waiting) => waiting.waker.into_iter().for_each(Waker::wake),
                Entry::Holding(hold) => holds.push(hold),
                Entry::Leaving(_, hold) => holds.extend(hold),
            }
        }
        holds
    }
}

impl Claims {
    /// Nobody will tell the waiters anything any more. What is held stays held until the lease ends.
    pub(super) fn leave_unattended(&mut self, reason: Reason) -> Vec<Arc<Hold>> {
        self.over.get_or_insert(reason);
        self.entries.retain(|_, entry| match entry {
            Entry::Waiting(waiting) => {
                waiting.waker.take().into_iter().for_each(Waker::wake);
                false
            }
            _ => true,
        });
        let held = |entry: &Entry| match entry {
            Entry::Holding(hold) | Entry::Leaving(_, Some(hold)) => Some(hold.clone()),
            _ => None,
        };
        self.entries.values().filter_map(held).collect()
    }
}
