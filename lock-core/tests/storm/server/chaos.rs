//! What a store does of its own accord: it forgets, ends sessions, repeats itself.

use lock_core::table::SessionCommand;
use lock_core::{ClaimRef, Clock, Event, LockKey, Reason, SessionId, Ticket};

use super::{Server, Shape};
use crate::weather::{Cut, chance};

impl Server {
    /// One act of chaos on one of these keys.
    pub(crate) fn misbehave(&self, keys: &[LockKey]) {
        let (roll, key) = {
            let mut state = self.state();
            let key = keys[state.rng.usize(0..keys.len())].clone();
            (state.rng.u8(0..13), key)
        };
        match roll {
            0 | 1 => self.forget(&key, false),
            2 => self.forget(&key, true),
            3 => drop(self.force_release(&key, None)),
            4 | 5 => self.end_some_session(),
            6 => self.send_to_some_session(|_| Event::Gap),
            7 => self.repeat_itself(),
            8 => self.send_to_some_session(Event::Recheck),
            // Mostly of claims that were settled long ago.
            9 => self.want_something(&key),
            _ => self.cut_off_some_session(),
        }
    }

    /// Loses grants: by a failover, a deletion. Nobody is told.
    pub(crate) fn forget(&self, key: &LockKey, all: bool) {
        let now = self.clock.boot();
        let mut state = self.state();
        // With its tombstones a store forgets which copies are void: a place in the queue that one of them takes is
        // nobody's, and nothing tells of it while the holder lives.
        let all = all && state.on_their_way.values().all(|&copies| copies == 0);
        for token in self.judge(&mut state, |table, at| table.forget(at, key, all)) {
            state.broken.entry((key.clone(), token)).or_insert(now);
        }
    }

    fn end_some_session(&self) {
        let Some(session) = self.some_session() else { return };
        self.end_session(session);
        let tell = {
            let mut state = self.state();
            chance(&mut state.rng, 500)
        };
        if tell {
            self.tell(vec![(session, Event::Lost(Reason::SessionEnded))]);
        }
    }

    /// Ends a session as an operator would, without a word to it.
    pub(crate) fn end_session(&self, session: SessionId) {
        let now = self.clock.boot();
        let mut state = self.state();
        let keys = state.table.keys();
        let held = self.judge(&mut state, |table, at| {
            let of = |key: &LockKey| {
                let own = table.holders(at, key).into_iter().filter(|&(owner, _, _)| owner == session);
                own.map(|(_, _, token)| (key.clone(), token)).collect::<Vec<_>>()
            };
            keys.iter().flat_map(of).collect::<Vec<_>>()
        });
        for grant in held {
            state.broken.entry(grant).or_insert(now);
        }
        if let Some(member) = state.members.find_mut(session) {
            member.record.apply(now.as_nanos() / 1000, SessionCommand::End);
        }
        // In one kind of store a death is noticed at once, in the other by whoever asks.
        drop(state);
        if self.shape != Shape::HandsOver {
            self.settle();
        }
    }

    /// Its client can reach nobody for a while; or it is heard, and hears nothing. Events are not calls: they arrive.
    fn cut_off_some_session(&self) {
        let Some(session) = self.some_session() else { return };
        let now = self.clock.boot();
        let mut state = self.state();
        let state = &mut *state;
        let cut = if state.rng.u8(0..3) > 0 { Cut::Requests } else { Cut::Replies };
        let time = state.longest_ttl.mul_f64(0.3 + 2.0 * state.rng.f64());
        state.steady_renewals = false;
        if state.rng.bool() {
            state.cut_off.insert(session, (now + time, cut));
            return;
        }
        // It fades first: the last replies are old when they arrive.
        let fading = now + state.longest_ttl / 2;
        state.cut_off.insert(session, (fading, Cut::Slow(state.longest_ttl / 4)));
        let server = self.clone();
        self.net.deliver_at(fading, move || {
            let mut state = server.state();
            // Unless it has cleared up meanwhile.
            if state.cut_off.contains_key(&session) {
                state.cut_off.insert(session, (fading + time, cut));
            }
        });
    }

    fn send_to_some_session(&self, event: impl FnOnce(Ticket) -> Event) {
        if let Some((session, ticket)) = self.some_claim() {
            self.tell(vec![(session, event(ticket))]);
        }
    }

    /// Never of a hold with a fixed end: its engine does not know it, and would release it.
    fn want_something(&self, key: &LockKey) {
        let Some((session, ticket)) = self.some_claim() else { return };
        if !self.state().table.is_fixed(key, session, ticket) {
            self.tell(vec![(session, Event::Wanted(ClaimRef::new(key.clone(), ticket)))]);
        }
    }

    /// A claim of a session that lives, which may have been settled long ago.
    fn some_claim(&self) -> Option<(SessionId, Ticket)> {
        let session = self.some_session()?;
        let mut state = self.state();
        let last = state.members.find(session).map_or(0, |member| member.last_ticket);
        Some((session, Ticket(state.rng.u64(0..=last))))
    }

    fn repeat_itself(&self) {
        let Some(session) = self.some_session() else { return };
        let again = {
            let mut state = self.state();
            let state = &mut *state;
            let told = state.members.find(session).map(|member| member.told.as_slice()).unwrap_or_default();
            if told.is_empty() { None } else { Some(told[state.rng.usize(0..told.len())].clone()) }
        };
        self.tell(again.map(|event| (session, event)).into_iter().collect());
    }

    /// One that lives.
    pub(crate) fn some_session(&self) -> Option<SessionId> {
        let mut state = self.state();
        let living = state.members.living(self.micros());
        if living.is_empty() { None } else { Some(living[state.rng.usize(0..living.len())]) }
    }
}
