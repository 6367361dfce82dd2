//! What the store does for its clients, and what becomes of it on the way.

use std::time::Duration;

use lock_core::table::{SessionCommand, SessionOutcome, SessionRecord};
use lock_core::{
    BootTime, Certainty, Claim, ClaimRef, Claimed, Clock, Effect, Error, Event, EventSink, FencingToken,
    LockKey, Reason, Released, Renewal, Result, SessionId, SessionOptions, Standing, Ticket,
};
use tokio::sync::oneshot;

use super::members::Member;
use super::{Gaps, Server, Shape, State, Told};
use crate::weather::{Fate, Op, SHORT, chance};

impl Server {
    /// One call. It is a message of its own: whoever awaits it may go, it arrives all the same.
    ///
    /// `apply` is told whether its answer is sure to arrive soon.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        op: Op,
        kind: &'static str,
        session: Option<SessionId>,
        ticket: Option<Ticket>,
        apply: impl FnOnce(&Server, bool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fate = {
            let mut state = self.state();
            *state.sent.entry(kind).or_default() += 1;
            self.count_this_instant(&mut state.same_instant);
            let state = &mut *state;
            let cut =
                session.and_then(|id| state.cut_off.get(&id)).filter(|(until, _)| self.clock.boot() < *until);
            match cut {
                Some((_, cut)) => cut.fate(),
                None => state.weather.fate(op, &mut state.rng),
            }
        };
        let claim = session.zip(ticket);
        let (tell, told) = oneshot::channel();
        let now = self.clock.boot();
        match fate {
            Fate::Instant => return apply(self, true),
            Fate::Answered(there, back) => {
                let (server, prompt) = (self.clone(), there + back <= SHORT * 2);
                self.leaves(claim);
                self.net.deliver_at(now + there, move || {
                    server.arrives(claim);
                    let answer = apply(&server, prompt);
                    server.net.deliver_at(server.clock.boot() + back, move || drop(tell.send(answer)));
                });
            }
            Fate::Refused(after) => {
                let refused = Error::unavailable("connection refused").effect(Effect::NotApplied);
                self.net.deliver_at(now + after, move || drop(tell.send(Err(refused))));
            }
            Fate::Unknown(applied, answer) => {
                if let Some(there) = applied {
                    let server = self.clone();
                    self.leaves(claim);
                    self.net.deliver_at(now + there, move || {
                        server.arrives(claim);
                        drop(apply(&server, false));
                    });
                }
                match answer {
                    Some(after) => {
                        let unknown = Error::unavailable("connection reset").effect(Effect::Unknown);
                        self.net.deliver_at(now + after, move || drop(tell.send(Err(unknown))));
                    }
                    None => std::mem::forget(tell),
                }
            }
        }
        match told.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    /// An engine that never lets time pass would hang the test instead of failing it.
    fn count_this_instant(&self, (at, count): &mut (BootTime, usize)) {
        let now = self.clock.boot();
        if *at != now {
            (*at, *count) = (now, 0);
        }
        *count += 1;
        assert!(*count < 1_000_000, "a million calls in one instant: the engine spins");
    }

    pub(super) fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Duration> {
        let micros = self.micros();
        let mut state = self.state();
        let state = &mut *state;
        if let Some(member) = state.members.find_mut(options.id) {
            return match member.record.apply(micros, SessionCommand::EndIfExpired) {
                SessionOutcome::Lives { .. } => Ok(Duration::from_micros(member.record.ttl())),
                SessionOutcome::Ended => Err(Error::session_lost(Reason::Expired)),
            };
        }
        let ttl = if chance(&mut state.rng, state.weather.ttl) { options.ttl * 3 / 2 } else { options.ttl };
        state.longest_ttl = state.longest_ttl.max(ttl);
        let length = u64::try_from(ttl.as_micros()).unwrap();
        let record = SessionRecord::open(options.id, micros, length, options.info.clone());
        state.members.add(options.id, Member { record, sink, told: Vec::new(), last_ticket: 0 });
        self.sweep_at(self.clock.boot() + ttl);
        Ok(ttl)
    }

    pub(super) fn renew(&self, id: SessionId, known: &[ClaimRef], prompt: bool) -> Result<Renewal> {
        let micros = self.micros();
        let mut state = self.state();
        let lives = state.members.find_mut(id).is_some_and(|member| {
            member.record.apply(micros, SessionCommand::EndIfExpired);
            member.record.apply(micros, SessionCommand::Renew) != SessionOutcome::Ended
        });
        if !lives {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        let now = self.clock.boot();
        if let Some(Gaps { last, longest }) = &mut state.gaps {
            for claim in known {
                if let Some(before) = last.insert((id, claim.ticket), now) {
                    *longest = now.since(before).max(*longest);
                }
            }
        }
        let mut renewal = Renewal::new(Vec::new());
        renewal.ttl = prompt.then(|| Self::change_ttl(&mut state, id, micros)).flatten();
        if let Some(ttl) = state.members.find(id).map(|member| member.record.ttl()) {
            self.sweep_at(self.clock.boot() + Duration::from_micros(ttl));
        }
        let mut told = Told::new();
        renewal.standings = self.judge(&mut state, |table, now| {
            let standing = |claim: &ClaimRef| {
                let standing = table.standing(now, id, claim);
                if let Standing::Waits { .. } = standing {
                    told.extend(table.remind(claim));
                }
                standing
            };
            known.iter().map(standing).collect()
        });
        drop(state);
        self.tell(told);
        Ok(renewal)
    }

    /// A change of the TTL is only made where the client is sure to hear of it in time.
    fn change_ttl(state: &mut State, id: SessionId, micros: u64) -> Option<Duration> {
        let asked = state.next_ttl.take();
        if asked.is_none() && !chance(&mut state.rng, state.weather.ttl) {
            return None;
        }
        let factor = [0.6, 1.0, 1.7][state.rng.usize(0..3)];
        let member = state.members.find_mut(id)?;
        let ttl = asked.unwrap_or_else(|| Duration::from_micros(member.record.ttl()).mul_f64(factor));
        let ttl = ttl.clamp(Duration::from_millis(400), Duration::from_secs(20));
        let length = u64::try_from(ttl.as_micros()).ok()?;
        member.record = SessionRecord::open(id, micros, length, member.record.info().clone());
        state.longest_ttl = state.longest_ttl.max(ttl);
        Some(Duration::from_micros(length))
    }

    pub(super) fn claim(&self, id: SessionId, claim: &Claim) -> Result<Claimed> {
        let mut state = self.state();
        if let Some(member) = state.members.find_mut(id) {
            member.last_ticket = member.last_ticket.max(claim.ticket.0);
        }
        let (claimed, told) = self.judge(&mut state, |table, now| table.claim(now, id, claim));
        drop(state);
        self.tell(told);
        claimed
    }

    pub(super) fn release(&self, id: SessionId, claim: &ClaimRef, settled: bool) -> Result<Released> {
        let mut state = self.state();
        let holders = self.judge(&mut state, |table, now| table.holders(now, &claim.key));
        // A place in the queue that nobody owns is another matter: nothing tells of it while its holder lives. A copy of the
        // claim that is still on its way would become one, once its tombstone is lost with the release.
        let held = holders.iter().any(|&(owner, ticket, _)| (owner, ticket) == (id, claim.ticket));
        let State { rng, weather, on_their_way, .. } = &mut *state;
        let copies = on_their_way.get(&(id, claim.ticket)).copied().unwrap_or_default();
        if held && copies == 0 && chance(rng, weather.orphan) {
            return Ok(Released::Done);
        }
        let (released, told) = self.judge(&mut state, |table, now| table.release(now, id, claim, settled));
        drop(state);
        self.tell(told);
        Ok(released)
    }

    pub(super) fn close(&self, id: SessionId) -> Result<()> {
        let micros = self.micros();
        let mut state = self.state();
        if let Some(member) = state.members.find_mut(id) {
            member.record.apply(micros, SessionCommand::End);
        }
        drop(state);
        self.settle();
        Ok(())
    }

    pub(crate) fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> usize {
        let now = self.clock.boot();
        let mut state = self.state();
        let (ended, told) = self.judge(&mut state, |table, at| table.force_release(at, key, only));
        for &token in &ended {
            state.broken.entry((key.clone(), token)).or_insert(now);
        }
        drop(state);
        self.tell(told);
        ended.len()
    }

    /// Some stores end the dead by themselves.
    fn sweep_at(&self, at: BootTime) {
        if let Shape::HandsOver = self.shape {
            return;
        }
        let server = self.clone();
        self.net.deliver_at(at + Duration::from_millis(1), move || server.settle());
    }

    /// Takes note of whoever has died.
    pub(super) fn settle(&self) {
        let told = self.judge(&mut self.state(), |table, now| table.settle(now));
        self.tell(told);
    }

    /// Sends events; each may come at once, late, twice or never.
    pub(super) fn tell(&self, told: Told) {
        for (session, event) in told {
            let now = self.clock.boot();
            let (sink, copies) = {
                let mut state = self.state();
                let state = &mut *state;
                let Some(member) = state.members.find_mut(session) else { continue };
                member.told.push(event.clone());
                let (rng, weather) = (&mut state.rng, &state.weather);
                let mut copies = Vec::new();
                if chance(rng, weather.event_lost) {
                    if chance(rng, weather.gap) {
                        copies.push((Event::Gap, weather.event_delay(rng)));
                    }
                } else {
                    copies.push((event.clone(), weather.event_delay(rng)));
                }
                if chance(rng, weather.event_twice) {
                    copies.push((event, weather.event_delay(rng)));
                }
                (member.sink.clone(), copies)
            };
            for (event, delay) in copies {
                let sink = sink.clone();
                match delay {
                    None => sink.send(event),
                    Some(delay) => self.net.deliver_at(now + delay, move || sink.send(event)),
                }
            }
        }
    }

    /// A copy of a claim sets out. Counted until it arrives, for a release has to know of it.
    fn leaves(&self, claim: Option<(SessionId, Ticket)>) {
        if let Some(claim) = claim {
            *self.state().on_their_way.entry(claim).or_default() += 1;
        }
    }

    fn arrives(&self, claim: Option<(SessionId, Ticket)>) {
        let mut state = self.state();
        if let Some(count) = claim.and_then(|claim| state.on_their_way.get_mut(&claim)) {
            *count -= 1;
        }
    }

    pub(super) fn watch_release(&self, id: SessionId, claim: &ClaimRef, certainty: Certainty) {
        let known = self.state().on_their_way.get(&(id, claim.ticket)).copied().unwrap_or_default();
        if certainty != Certainty::Settled {
            self.state().tombstoned.insert((id, claim.ticket));
        }
        let buried = self.state().tombstoned.contains(&(id, claim.ticket));
        if certainty == Certainty::Settled && known > 0 && !buried {
            self.violation(&format!(
                "ticket {} of {} was released as settled while a copy of its claim was on its way",
                claim.ticket.0, claim.key
            ));
        }
    }

    pub(super) fn watch_renewal(&self, id: SessionId, known: usize) {
        let since = self.state().abandoned.get(&id).copied();
        if let Some(since) = since {
            self.violation(&format!("session {id} was renewed after it was abandoned at {since:?}"));
        }
        if known > self.verify_chunk {
            self.violation(&format!("one renewal asked about {known} claims"));
        }
    }
}
