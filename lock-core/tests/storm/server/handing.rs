//! A store that hands over: the lock table, told to the engine as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_core::table::{Command, Input, KeyRecord, News, Notice, Outcome, Request};
use lock_core::{
    Busy, Certainty, Claim, ClaimRef, Claimed, Event, FencingToken, LockKey, Proof, Released, Result,
    SessionId, Standing, Term, Ticket,
};

use super::{Now, Table, Told};

#[derive(Default)]
pub(crate) struct Handing {
    keys: BTreeMap<LockKey, KeyRecord>,
}

impl Handing {
    fn apply(&mut self, now: &Now<'_>, key: &LockKey, command: &Command) -> (Outcome, Vec<Notice>, Told) {
        let record = self.keys.entry(key.clone()).or_default();
        let input = Input { now: now.micros, proposed_token: now.token };
        let applied = record.apply(input, command, &|session| now.lives(session));
        let told = applied.notices.iter().map(|n| (n.session, Event::from_notice(key, n))).collect();
        (applied.outcome, applied.notices, told)
    }

    /// When the first of the holders ends unless it is renewed; at once where it has ended.
    fn next_end(now: &Now<'_>, record: &KeyRecord) -> Option<Duration> {
        let ends = record.holders().iter().map(|holder| {
            let member = now.members.find(holder.session);
            let by_session = member.map_or(0, |member| member.record.expires_at());
            holder.holding.fixed_until().unwrap_or(by_session)
        });
        ends.min().map(|at| Duration::from_micros(at.saturating_sub(now.micros)))
    }
}

impl Table for Handing {
    fn claim(&mut self, now: &Now<'_>, session: SessionId, claim: &Claim) -> (Result<Claimed>, Told) {
        let (outcome, _, told) = self.apply(now, &claim.key, &Command::Claim(Request::of(session, claim)));
        let claimed = match outcome {
            Outcome::Granted { token } => Ok(Claimed::Granted { token, proof: Proof::NONE }),
            Outcome::Queued { head, .. } => {
                let record = self.keys.get(&claim.key).filter(|_| head);
                let recheck_in = record.and_then(|record| Self::next_end(now, record));
                Ok(Claimed::Queued { recheck_in, busy: Busy::new() })
            }
            Outcome::Busy { .. } => Ok(Claimed::Busy(Busy::new())),
            outcome => Err(outcome.into_error()),
        };
        (claimed, told)
    }

    fn release(
        &mut self,
        now: &Now<'_>,
        session: SessionId,
        claim: &ClaimRef,
        settled: bool,
    ) -> (Released, Told) {
        let certainty = if settled { Certainty::Settled } else { Certainty::MaybeInFlight };
        let command = Command::Release { session, ticket: claim.ticket, certainty };
        let (outcome, _, told) = self.apply(now, &claim.key, &command);
        let Outcome::Released(released) = outcome else { panic!("a release came to {outcome:?}") };
        (released, told)
    }

    fn standing(&self, now: &Now<'_>, session: SessionId, claim: &ClaimRef) -> Standing {
        let Some(record) = self.keys.get(&claim.key) else { return Standing::Gone };
        match record.standing(session, claim.ticket) {
            // Only whoever is next has to look after the holders; but should that one have no more eyes than they, so
            // has everybody.
            Standing::Waits { .. } => {
                let head = record.is_head(session, claim.ticket);
                let recheck_in = Self::next_end(now, record).filter(|time| head || time.is_zero());
                Standing::Waits { recheck_in }
            }
            other => other,
        }
    }

    fn is_fixed(&self, key: &LockKey, session: SessionId, ticket: Ticket) -> bool {
        let Some(record) = self.keys.get(key) else { return false };
        let is_this = |of: SessionId, other: Ticket| (of, other) == (session, ticket);
        let mut holders = record.holders().iter().filter(|holder| is_this(holder.session, holder.ticket));
        let mut waiters = record.queue().filter(|waiter| is_this(waiter.session, waiter.ticket));
        holders.any(|holder| holder.holding.fixed_until().is_some())
            || waiters.any(|waiter| matches!(waiter.term, Term::Fixed(_)))
    }

    fn force_release(
        &mut self,
        now: &Now<'_>,
        key: &LockKey,
        only: Option<FencingToken>,
    ) -> (Vec<FencingToken>, Told) {
        let holders = self.holders(now, key);
        let (_, notices, told) = self.apply(now, key, &Command::ForceRelease { only });
        let revoked = notices.iter().filter(|notice| matches!(notice.news, News::Revoked(_)));
        let of = |notice: &Notice| {
            let mut all = holders.iter();
            all.find(|&&(session, ticket, _)| (session, ticket) == (notice.session, notice.ticket))
        };
        (revoked.filter_map(of).map(|&(_, _, token)| token).collect(), told)
    }

    fn forget(&mut self, now: &Now<'_>, key: &LockKey, all: bool) -> Vec<FencingToken> {
        let lost = self.holders(now, key).into_iter().map(|(_, _, token)| token).collect();
        if all {
            let fence = self.keys.get(key).map_or(0, KeyRecord::fence);
            self.keys.insert(key.clone(), KeyRecord::with_fence(fence));
        } else {
            // Only the grants: whoever waits stays, and is not told.
            self.apply(now, key, &Command::ForceRelease { only: None });
        }
        lost
    }

    fn settle(&mut self, now: &Now<'_>) -> Told {
        let keys = self.keys();
        keys.iter().flat_map(|key| self.apply(now, key, &Command::Settle).2).collect()
    }

    fn keys(&self) -> Vec<LockKey> {
        self.keys.keys().cloned().collect()
    }

    fn left(&self, now: &Now<'_>, key: &LockKey) -> Vec<String> {
        let Some(record) = self.keys.get(key) else { return Vec::new() };
        let lives = |session| now.lives(session);
        let holders = record.holders().iter().filter(|h| KeyRecord::counts(h, now.micros, &lives));
        let held = holders.map(|h| format!("{key} held by ticket {}: {:?}", h.ticket.0, h.holding));
        let waiting = record.queue().filter(|w| now.lives(w.session));
        held.chain(waiting.map(|w| format!("{key} waited for by ticket {}", w.ticket.0))).collect()
    }

    fn holders(&self, now: &Now<'_>, key: &LockKey) -> Vec<(SessionId, Ticket, FencingToken)> {
        let Some(record) = self.keys.get(key) else { return Vec::new() };
        let lives = |session| now.lives(session);
        let holders = record.holders().iter().filter(|h| KeyRecord::counts(h, now.micros, &lives));
        holders.map(|h| (h.session, h.ticket, h.token)).collect()
    }
}
