//! A store that keeps nothing but ordered queues: whoever fits behind those ahead of it holds the lock. Its sessions
//! watch the entries ahead and claim again when one of them goes.

use std::collections::{BTreeMap, BTreeSet};

use lock_core::{
    Busy, Claim, ClaimRef, Claimed, Error, ErrorKind, Event, FencingToken, LockKey, Proof, Reason, Released,
    Result, SessionId, Standing, Ticket,
};

use super::{Now, Table, Told};

pub(crate) struct Watching {
    wanted: bool,
    /// Counts every change of the store, as revisions do: an entry's token is the revision that made it.
    revision: u64,
    keys: BTreeMap<LockKey, Queue>,
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    withdrawn: BTreeSet<(SessionId, Ticket)>,
}

#[derive(Clone)]
struct Entry {
    session: SessionId,
    ticket: Ticket,
    weight: u32,
    capacity: u32,
    token: FencingToken,
}

impl Queue {
    fn find(&self, session: SessionId, ticket: Ticket) -> Option<usize> {
        self.entries.iter().position(|entry| (entry.session, entry.ticket) == (session, ticket))
    }

    /// The one rule.
    fn holds(&self, index: usize) -> bool {
        let sum: u64 = self.entries[..=index].iter().map(|entry| u64::from(entry.weight)).sum();
        sum <= u64::from(self.entries[index].capacity)
    }

    fn holding(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().enumerate().filter(|&(index, _)| self.holds(index)).map(|(_, entry)| entry)
    }

    /// Removes entries; whoever watched them is told to look again.
    fn remove(&mut self, gone: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let first = self.entries.iter().position(&gone);
        let Some(first) = first else { return Vec::new() };
        let waited: BTreeSet<Ticket> = (first..self.entries.len())
            .filter(|&index| !self.holds(index))
            .map(|index| self.entries[index].ticket)
            .collect();
        self.entries.retain(|entry| !gone(entry));
        self.entries[first.min(self.entries.len())..]
            .iter()
            .filter(|entry| waited.contains(&entry.ticket))
            .cloned()
            .collect()
    }
}

fn recheck(entries: Vec<Entry>) -> Told {
    entries.into_iter().map(|entry| (entry.session, Event::Recheck(entry.ticket))).collect()
}

impl Watching {
    pub(crate) fn new(wanted: bool) -> Watching {
        Watching { wanted, revision: 1, keys: BTreeMap::new() }
    }

    /// The server ends what a dead session has left by itself.
    fn sweep(&mut self, now: &Now<'_>, key: &LockKey) -> Told {
        let Some(queue) = self.keys.get_mut(key) else { return Told::new() };
        queue.withdrawn.retain(|&(session, _)| now.lives(session));
        recheck(queue.remove(|entry| !now.lives(entry.session)))
    }

    fn want(&self, key: &LockKey) -> Told {
        if !self.wanted {
            return Told::new();
        }
        let Some(queue) = self.keys.get(key) else { return Told::new() };
        let want = |entry: &Entry| (entry.session, Event::Wanted(ClaimRef::new(key.clone(), entry.ticket)));
        queue.holding().map(want).collect()
    }
}

impl Table for Watching {
    fn claim(&mut self, now: &Now<'_>, session: SessionId, claim: &Claim) -> (Result<Claimed>, Told) {
        let mut told = self.sweep(now, &claim.key);
        if !now.lives(session) {
            return (Err(Error::session_lost(Reason::SessionEnded)), told);
        }
        let queue = self.keys.entry(claim.key.clone()).or_default();
        if queue.withdrawn.contains(&(session, claim.ticket)) {
            let withdrawn = Error::new(ErrorKind::Withdrawn, "it was released before it arrived");
            return (Err(withdrawn), told);
        }
        let (weight, capacity) = (claim.permit.weight(), claim.permit.capacity());
        let index = match queue.find(session, claim.ticket) {
            Some(index) => index,
            None => {
                if let Some(in_force) = queue.entries.first().map(|e| e.capacity).filter(|&c| c != capacity) {
                    let mismatch = ErrorKind::CapacityMismatch { in_force };
                    return (Err(Error::new(mismatch, "another capacity is in force")), told);
                }
                self.revision += 1;
                let token = FencingToken::new(self.revision).unwrap();
                queue.entries.push(Entry { session, ticket: claim.ticket, weight, capacity, token });
                let index = queue.entries.len() - 1;
                if !claim.wait && !queue.holds(index) {
                    queue.entries.pop();
                    return (Ok(Claimed::Busy(Busy::new())), told);
                }
                index
            }
        };
        if queue.holds(index) {
            let token = queue.entries[index].token;
            return (Ok(Claimed::Granted { token, proof: Proof::NONE }), told);
        }
        told.extend(self.want(&claim.key));
        (Ok(Claimed::Queued { recheck_in: None, busy: Busy::new() }), told)
    }

    fn release(
        &mut self,
        now: &Now<'_>,
        session: SessionId,
        claim: &ClaimRef,
        settled: bool,
    ) -> (Released, Told) {
        let mut told = self.sweep(now, &claim.key);
        self.revision += 1;
        let queue = self.keys.entry(claim.key.clone()).or_default();
        if !settled && now.lives(session) {
            queue.withdrawn.insert((session, claim.ticket));
        }
        if queue.find(session, claim.ticket).is_none() {
            return (Released::Gone, told);
        }
        let own = |entry: &Entry| (entry.session, entry.ticket) == (session, claim.ticket);
        told.extend(recheck(queue.remove(own)));
        (Released::Done, told)
    }

    fn standing(&self, now: &Now<'_>, session: SessionId, claim: &ClaimRef) -> Standing {
        let Some(queue) = self.keys.get(&claim.key) else { return Standing::Gone };
        let Some(index) = queue.find(session, claim.ticket) else { return Standing::Gone };
        if !now.lives(session) || !queue.holds(index) {
            return Standing::Waits { recheck_in: None };
        }
        Standing::Holds { token: queue.entries[index].token, proof: Proof::NONE }
    }

    /// Nobody claims again unasked: so it is said with every renewal of whoever waits.
    fn remind(&self, claim: &ClaimRef) -> Told {
        self.want(&claim.key)
    }

    fn force_release(
        &mut self,
        now: &Now<'_>,
        key: &LockKey,
        only: Option<FencingToken>,
    ) -> (Vec<FencingToken>, Told) {
        let mut told = self.sweep(now, key);
        let Some(queue) = self.keys.get_mut(key) else { return (Vec::new(), told) };
        let hit = |entry: &&Entry| only.is_none_or(|token| token == entry.token);
        let ended: Vec<Entry> = queue.holding().filter(hit).cloned().collect();
        let tokens: Vec<FencingToken> = ended.iter().map(|entry| entry.token).collect();
        told.extend(recheck(queue.remove(|entry| tokens.contains(&entry.token))));
        let revoked = |entry: &Entry| (entry.session, Event::Revoked(entry.ticket, Reason::Revoked));
        told.extend(ended.iter().map(revoked));
        (tokens, told)
    }

    fn forget(&mut self, now: &Now<'_>, key: &LockKey, all: bool) -> Vec<FencingToken> {
        self.sweep(now, key);
        let Some(queue) = self.keys.get_mut(key) else { return Vec::new() };
        let lost: Vec<_> = queue.holding().map(|entry| entry.token).collect();
        if all {
            *queue = Queue::default();
        } else {
            queue.remove(|entry| lost.contains(&entry.token));
        }
        lost
    }

    fn settle(&mut self, now: &Now<'_>) -> Told {
        let keys = self.keys();
        keys.iter().flat_map(|key| self.sweep(now, key)).collect()
    }

    fn keys(&self) -> Vec<LockKey> {
        self.keys.keys().cloned().collect()
    }

    fn left(&self, now: &Now<'_>, key: &LockKey) -> Vec<String> {
        let Some(queue) = self.keys.get(key) else { return Vec::new() };
        let living = queue.entries.iter().filter(|entry| now.lives(entry.session));
        living.map(|entry| format!("{key} has an entry of ticket {}", entry.ticket.0)).collect()
    }

    fn holders(&self, now: &Now<'_>, key: &LockKey) -> Vec<(SessionId, Ticket, FencingToken)> {
        let Some(queue) = self.keys.get(key) else { return Vec::new() };
        let living = queue.holding().filter(|entry| now.lives(entry.session));
        living.map(|entry| (entry.session, entry.ticket, entry.token)).collect()
    }
}
