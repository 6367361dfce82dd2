//! The lock table behind a mutex.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::{
    Certainty, Claim, ClaimRef, Claimed, Cursor, Event, EventSink, HolderState, LockState, Page, Proof,
    Query, Released, Renewal, SessionId, SessionOptions, Standing, WaiterState,
};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::hold::{Busy, Reason};
use crate::key::LockKey;
use crate::table::{
    Blocker, Command, Input, KeyRecord, Outcome, Request, SessionCommand, SessionOutcome, SessionRecord,
};
use crate::token::FencingToken;

pub(super) struct Store {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<LockKey, KeyRecord>,
    sessions: HashMap<SessionId, Member>,
    /// Tokens of records made anew begin above it: no record was deleted whose fence is higher.
    floor: u64,
    /// Idle records whose fence was not behind the clock when they became idle.
    lingering: VecDeque<LockKey>,
    /// What is in there: each key once.
    lingers: HashSet<LockKey>,
}

struct Member {
    record: SessionRecord,
    sink: EventSink,
}

impl Store {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Store {
        Store { clock, state: Mutex::default() }
    }

    pub(super) fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<()> {
        let now = self.now();
        let mut state = self.state();
        if let Some(member) = state.sessions.get_mut(&options.id) {
            return match member.record.apply(now, SessionCommand::EndIfExpired) {
                SessionOutcome::Lives { .. } => Ok(()),
                SessionOutcome::Ended => Err(Error::session_lost(Reason::Expired)),
            };
        }
        // Whoever died without closing is forgotten here: nobody else would ever ask for them.
        state.sessions.retain(|_, member| now < member.record.expires_at());
        let ttl = u64::try_from(options.ttl.as_micros()).unwrap_or(u64::MAX);
        let record = SessionRecord::open(options.id, now, ttl, options.info.clone());
        state.sessions.insert(options.id, Member { record, sink });
        Ok(())
    }

    pub(super) fn renew(&self, session: SessionId, known: &[ClaimRef]) -> Result<Renewal> {
        let now = self.now();
        let mut state = self.state();
        let lives = state.sessions.get_mut(&session).is_some_and(|member| {
            // First end what is over: an instant that others may already have judged by is never taken back.
            member.record.apply(now, SessionCommand::EndIfExpired);
            member.record.apply(now, SessionCommand::Renew) != SessionOutcome::Ended
        });
        if !lives {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        let standing = |claim: &ClaimRef| {
            let Some(record) = state.keys.get(&claim.key) else { return Standing::Gone };
            match record.standing(session, claim.ticket) {
                // The head looks after the holders. It may have died with them: then everybody does.
                Standing::Waits { .. } => {
                    let head = record.is_head(session, claim.ticket);
                    let recheck_in = state.next_end(record, now).filter(|time| head || time.is_zero());
                    Standing::Waits { recheck_in }
                }
                other => other,
            }
        };
        Ok(Renewal::new(known.iter().map(standing).collect()))
    }

    pub(super) fn claim(&self, session: SessionId, claim: &Claim) -> Result<Claimed> {
        let command = Command::Claim(Request::of(session, claim));
        let mut state = self.state();
        let (outcome, input) = self.apply(&mut state, &claim.key, &command);
        match outcome {
            Outcome::Granted { token } => Ok(Claimed::Granted { token, proof: Proof::NONE }),
            Outcome::Queued { head, blocker } => {
                let record = state.keys.get(&claim.key).filter(|_| head);
                let recheck_in = record.and_then(|record| state.next_end(record, input.now));
                Ok(Claimed::Queued { recheck_in, busy: state.busy(blocker, input.now) })
            }
            Outcome::Busy { blocker } => Ok(Claimed::Busy(state.busy(blocker, input.now))),
            outcome => Err(outcome.into_error()),
        }
    }

    pub(super) fn release(
        &self,
        session: SessionId,
        claim: &ClaimRef,
        certainty: Certainty,
    ) -> Result<Released> {
        let command = Command::Release { session, ticket: claim.ticket, certainty };
        let mut state = self.state();
        match self.apply(&mut state, &claim.key, &command).0 {
            Outcome::Released(released) => Ok(released),
            outcome => Err(outcome.into_error()),
        }
    }

    pub(super) fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let mut state = self.state();
        match self.apply(&mut state, key, &Command::ForceRelease { only }).0 {
            Outcome::ForceReleased(count) => Ok(count),
            outcome => Err(outcome.into_error()),
        }
    }

    pub(super) fn close(&self, session: SessionId) {
        let mut state = self.state();
        state.sessions.remove(&session);
        let concerned: Vec<_> = state
            .keys
            .iter()
            .filter(|(_, record)| record.sessions().contains(&session))
            .map(|(key, _)| key.clone())
            .collect();
        for key in concerned {
            self.apply(&mut state, &key, &Command::Settle);
        }
    }

    pub(super) fn forget(&self, key: &LockKey) {
        self.state().keys.remove(key);
    }

    pub(super) fn inspect(&self, key: &LockKey) -> LockState {
        let now = self.now();
        let state = self.state();
        let mut seen = LockState::idle(key.clone());
        let Some(record) = state.keys.get(key) else { return seen };
        seen.fence = FencingToken::new(record.fence()).ok();
        let alive = |session| state.lives(session, now);
        for holder in record.holders().iter().filter(|holder| KeyRecord::counts(holder, now, &alive)) {
            let fixed = holder.holding.fixed_until();
            let ends = fixed.or_else(|| Some(state.sessions.get(&holder.session)?.record.expires_at()));
            let remaining = ends.map(|ends| Duration::from_micros(ends.saturating_sub(now)));
            seen.holders.push(
                HolderState::new(holder.session, holder.ticket, holder.token, holder.mode)
                    .ends_in(remaining, fixed.is_some())
                    .described(state.info(holder.session), holder.note.clone()),
            );
        }
        for waiter in record.queue().filter(|waiter| alive(waiter.session)) {
            seen.queue.push(
                WaiterState::new(waiter.session, waiter.ticket, waiter.mode)
                    .described(state.info(waiter.session), waiter.note.clone()),
            );
        }
        seen.capacity = record.capacity().filter(|_| !seen.is_idle());
        seen
    }

    pub(super) fn list(&self, query: &Query) -> Page {
        let mut keys: Vec<LockKey> = {
            let state = self.state();
            let matching = state.keys.keys().filter(|key| query.matches(key));
            matching
                .filter(|key| query.after.as_ref().is_none_or(|after| key.as_str() > after.as_str()))
                .cloned()
                .collect()
        };
        keys.retain(|key| !self.inspect(key).is_idle());
        keys.sort_unstable();
        let more = keys.len() > query.limit;
        keys.truncate(query.limit);
        let next = keys.last().filter(|_| more).map(|key| Cursor::new(key.as_str()));
        Page::new(keys, next)
    }

    /// Applies a command to a key's record, tells whom it concerns, and deletes the record if it may go.
    fn apply(&self, state: &mut State, key: &LockKey, command: &Command) -> (Outcome, Input) {
        let now = self.now();
        let input = Input { now, proposed_token: self.clock.wall_micros().max(state.floor + 1) };
        let State { keys, sessions, floor, lingering, lingers } = state;
        let alive = |session| sessions.get(&session).is_some_and(|member| member.lives(now));
        let record = match keys.get_mut(key) {
            Some(record) => record,
            None => keys.entry(key.clone()).or_insert_with(|| KeyRecord::with_fence(*floor)),
        };
        let applied = record.apply(input, command, &alive);
        if record.is_disposable(input) {
            *floor = (*floor).max(record.fence());
            keys.remove(key);
        } else if record.is_idle() && applied.changed && lingers.insert(key.clone()) {
            lingering.push_back(key.clone());
        }
        // One old acquaintance for each command: so they never pile up, and no command pays for many.
        if let Some(old) = lingering.pop_front() {
            match keys.get(&old) {
                Some(record) if record.is_idle() && !record.is_disposable(input) => lingering.push_back(old),
                Some(record) if record.is_idle() => {
                    *floor = (*floor).max(record.fence());
                    keys.remove(&old);
                    lingers.remove(&old);
                }
                _ => {
                    lingers.remove(&old);
                }
            }
        }
        for notice in &applied.notices {
            if let Some(member) = sessions.get(&notice.session) {
                member.sink.send(Event::from_notice(key, notice));
            }
        }
        (applied.outcome, input)
    }

    fn now(&self) -> u64 {
        self.clock.boot().as_nanos() / 1000
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Expiry is final although nobody writes it down: `renew` ends what is expired before it renews, and boot time
    /// never goes back.
    fn lives(&self, now: u64) -> bool {
        !self.record.is_ended() && now < self.record.expires_at()
    }
}

impl State {
    fn lives(&self, session: SessionId, now: u64) -> bool {
        self.sessions.get(&session).is_some_and(|member| member.lives(now))
    }

    fn info(&self, session: SessionId) -> Option<crate::holder::HolderInfo> {
        Some(self.sessions.get(&session)?.record.info().clone())
    }

    /// `None` for a session that is not known any more.
    fn ends_in(&self, session: SessionId, fixed: Option<u64>, now: u64) -> Option<Duration> {
        let ends = fixed.or_else(|| Some(self.sessions.get(&session)?.record.expires_at()))?;
        Some(Duration::from_micros(ends.saturating_sub(now)))
    }

    fn busy(&self, blocker: Option<Blocker>, now: u64) -> Busy {
        let Some(blocker) = blocker else { return Busy::new() };
        Busy::new()
            .held_by(self.info(blocker.session))
            .for_another(self.ends_in(blocker.session, blocker.until, now))
            .under(Some(blocker.token))
    }

    /// When the first of the holders ends unless it is renewed; zero when it has ended.
    fn next_end(&self, record: &KeyRecord, now: u64) -> Option<Duration> {
        let ends = |holder: &crate::table::Holder| {
            self.ends_in(holder.session, holder.holding.fixed_until(), now).unwrap_or_default()
        };
        record.holders().iter().map(ends).min()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store(in memory)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Domain, Ticket};
    use crate::clock::VirtualClock;
    use crate::mode::{Mode, Permit};

    #[test]
    fn an_idle_key_is_remembered_once() {
        let clock = VirtualClock::new();
        let store = Store::new(Arc::new(clock.clone()));
        let id = SessionId::from_u128(1);
        let options =
            SessionOptions::new(id, Domain(0), Duration::from_secs(3600), crate::HolderInfo::new(1));
        store.open(&options, EventSink::new(|_| {})).unwrap();
        let mut ticket = 0;
        let mut cycle = |key: usize| {
            ticket += 1;
            let claim = Claim::new(
                LockKey::new(format!("k{key}")).unwrap(),
                Ticket(ticket),
                Mode::Exclusive,
                Permit::MUTEX,
            );
            assert!(matches!(store.claim(id, &claim), Ok(Claimed::Granted { .. })));
            store.release(id, &claim.reference(), Certainty::Settled).unwrap();
        };
        (0..10).for_each(&mut cycle);
        clock.step_wall(-3_600_000_000); // Set back by an hour: no fence is behind it for so long.
        (0..10_000).for_each(|n| cycle(n % 10));
        let state = store.state();
        assert!(
            state.lingering.len() <= 2 * state.keys.len(),
            "{} entries for {} keys",
            state.lingering.len(),
            state.keys.len()
        );
    }
}
