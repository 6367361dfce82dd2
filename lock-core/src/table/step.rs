//! [`Step`]: the rules. How one command changes a key's record, and whom it tells.

use super::{
    Applied, Blocker, Command, Holder, Holding, Input, KeyRecord, News, Notice, Outcome, Request, Waiter,
};
use crate::backend::{Certainty, Released, SessionId, Term, Ticket};
use crate::hold::Reason;
use crate::token::FencingToken;

/// One command on its way through the record.
pub(super) struct Step<'a> {
    record: &'a mut KeyRecord,
    now: u64,
    proposed_token: u64,
    alive: &'a dyn Fn(SessionId) -> bool,
    /// Who was next when the command came.
    head_before: Option<(SessionId, Ticket)>,
    notices: Vec<Notice>,
    changed: bool,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        record: &'a mut KeyRecord,
        input: Input,
        alive: &'a dyn Fn(SessionId) -> bool,
    ) -> Step<'a> {
        Step {
            now: input.now.max(record.now),
            proposed_token: input.proposed_token,
            alive,
            head_before: record.head(),
            record,
            notices: Vec::new(),
            changed: false,
        }
    }

    pub(super) fn apply(mut self, command: &Command) -> Applied {
        let outcome = match command {
            Command::Claim(request) => self.claim(request),
            Command::Release { session, ticket, certainty } => self.release(*session, *ticket, *certainty),
            Command::ForceRelease { only } => self.force_release(*only),
            Command::Settle => {
                self.forget_the_dead();
                self.settle();
                Outcome::Settled
            }
        };
        if self.changed {
            self.record.now = self.now;
        }
        Applied { outcome, notices: self.notices, changed: self.changed }
    }

    fn claim(&mut self, request: &Request) -> Outcome {
        if !(self.alive)(request.session) {
            return Outcome::SessionEnded;
        }
        if self.record.tombstones.contains(&(request.session, request.ticket)) {
            return Outcome::Withdrawn;
        }
        if let Some(outcome) = self.already_holds(request) {
            return outcome;
        }
        if self.record.queue.is_empty() && self.fits(request) {
            return self.grant_now(request);
        }
        // Contended as far as one can see without asking who lives: now it is worth asking.
        self.settle();
        if let Some(outcome) = self.already_holds(request) {
            return outcome;
        }
        if self.is_queued(request) {
            let outcome = self.judge_waiter(request);
            self.look_for_the_head(&outcome);
            return outcome;
        }
        if !self.record.is_idle() && self.record.capacity != request.permit.capacity() {
            return Outcome::CapacityMismatch { in_force: self.record.capacity };
        }
        if self.fits(request) {
            return self.grant_now(request);
        }
        if !request.wait {
            // Also to whoever only tries, a grant that nobody owns must not be busy for ever.
            self.tell_holders_that_they_are_wanted();
            return Outcome::Busy { blocker: self.blocker() };
        }
        self.record.queue.push_back(waiter(request));
        self.changed = true;
        self.judge_waiter(request)
    }

    fn release(&mut self, session: SessionId, ticket: Ticket, certainty: Certainty) -> Outcome {
        if certainty == Certainty::MaybeInFlight
            && (self.alive)(session)
            && !self.record.tombstones.contains(&(session, ticket))
        {
            self.record.tombstones.retain(|&(session, _)| (self.alive)(session));
            self.record.tombstones.push((session, ticket));
            self.changed = true;
        }
        let held = self.record.holders.iter().position(|holder| {
            (holder.session, holder.ticket) == (session, ticket)
                && !matches!(holder.holding, Holding::Fixed { returned: true, .. })
        });
        let waiting =
            self.record.queue.iter().position(|waiter| (waiter.session, waiter.ticket) == (session, ticket));
        let released = match (held, waiting) {
            (Some(index), _) => {
                let was_over = match self.record.holders[index].holding {
                    Holding::Session { .. } => !(self.alive)(session),
                    Holding::Fixed { until, .. } => until <= self.now,
                };
                self.give_back(index);
                if was_over { Released::Gone } else { Released::Done }
            }
            (None, Some(index)) => {
                self.record.queue.remove(index);
                if (self.alive)(session) { Released::Done } else { Released::Gone }
            }
            (None, None) => return Outcome::Released(Released::Gone),
        };
        self.changed = true;
        // An uncontended release asks for nobody else's liveness.
        if !self.record.queue.is_empty() {
            self.settle();
        }
        Outcome::Released(released)
    }

    fn force_release(&mut self, only: Option<FencingToken>) -> Outcome {
        let mut ended = 0;
        let (now, alive, notices) = (self.now, self.alive, &mut self.notices);
        let before = self.record.holders.len();
        self.record.holders.retain(|holder| {
            if only.is_some_and(|token| token != holder.token) {
                return true;
            }
            // One that had died or expired before goes too, but was not ended by this.
            if KeyRecord::counts(holder, now, alive) {
                ended += 1;
                notices.push(Notice {
                    session: holder.session,
                    ticket: holder.ticket,
                    news: News::Revoked(Reason::Revoked),
                });
            }
            false
        });
        self.changed |= self.record.holders.len() != before;
        self.settle();
        Outcome::ForceReleased(ended)
    }

    /// Removes the holders that have died or expired, then grants in order for as long as the capacity lasts.
    ///
    /// Waiters are asked whether they live only when they come to the front: a store may pay for each question.
    fn settle(&mut self) {
        let (now, alive) = (self.now, self.alive);
        let mut changed = false;
        self.record.holders.retain_mut(|holder| {
            let stays = KeyRecord::counts(holder, now, alive);
            if let (true, Holding::Session { at_least_until }) = (stays, holder.holding) {
                if at_least_until > now && !alive(holder.session) {
                    holder.holding = Holding::Fixed { until: at_least_until, returned: true };
                    changed = true;
                }
            }
            changed |= !stays;
            stays
        });
        self.changed |= changed;
        self.grant_in_order();
        self.tell_new_head();
    }

    /// Removes everything that names a session which is over.
    fn forget_the_dead(&mut self) {
        let alive = self.alive;
        let before = (self.record.queue.len(), self.record.tombstones.len());
        self.record.queue.retain(|waiter| alive(waiter.session));
        self.record.tombstones.retain(|&(session, _)| alive(session));
        self.changed |= before != (self.record.queue.len(), self.record.tombstones.len());
    }

    fn grant_in_order(&mut self) {
        while let Some(waiter) = self.record.queue.front() {
            if !(self.alive)(waiter.session) {
                self.record.queue.pop_front();
                self.changed = true;
                continue;
            }
            if !self.head_fits() {
                return;
            }
            let Some(token) = self.next_token() else { return };
            let Some(waiter) = self.record.queue.pop_front() else { return };
            self.notices.push(Notice {
                session: waiter.session,
                ticket: waiter.ticket,
                news: News::Granted { token },
            });
            self.hold(waiter, token);
        }
    }

    /// A new head has to look after itself from now on: whoever blocks it may die without a word. One that could be
    /// granted but for the token is told as well, to learn that from its own claim.
    fn tell_new_head(&mut self) {
        let Some(head) = self.record.queue.front() else { return };
        if self.head_fits() || self.head_before != Some((head.session, head.ticket)) {
            self.notices.push(Notice { session: head.session, ticket: head.ticket, news: News::Recheck });
        }
    }

    /// How a claim stands that is in the queue.
    fn judge_waiter(&mut self, request: &Request) -> Outcome {
        let head = self.record.is_head(request.session, request.ticket);
        // Its own answer says it all.
        self.notices.retain(|notice| {
            (notice.session, notice.ticket) != (request.session, request.ticket)
                || notice.news != News::Recheck
        });
        if head {
            if self.head_fits() {
                // `settle` would have granted it, had there been a token.
                self.record.queue.pop_front();
                self.changed = true;
                self.settle();
                return Outcome::FenceExhausted;
            }
            self.tell_holders_that_they_are_wanted();
        }
        Outcome::Queued { head, blocker: self.blocker() }
    }

    fn tell_holders_that_they_are_wanted(&mut self) {
        let wanted = self.record.holders.iter().filter_map(|holder| match holder.holding {
            Holding::Session { .. } => {
                Some(Notice { session: holder.session, ticket: holder.ticket, news: News::Wanted })
            }
            Holding::Fixed { .. } => None,
        });
        self.notices.extend(wanted);
    }

    /// Whoever asks again behind the head has heard nothing for long. The others rely on the head to look after the
    /// holders, and a place that nobody owns does not: its engine then finds it out.
    fn look_for_the_head(&mut self, outcome: &Outcome) {
        if let (Outcome::Queued { head: false, .. }, Some(first)) = (outcome, self.record.queue.front()) {
            // As with holders: once granted, its engine forgets a claim with a fixed end, and would release it.
            if matches!(first.term, Term::Session { .. }) {
                let (session, ticket) = (first.session, first.ticket);
                self.notices.push(Notice { session, ticket, news: News::Wanted });
            }
        }
    }

    fn already_holds(&self, request: &Request) -> Option<Outcome> {
        let holder = self
            .record
            .holders
            .iter()
            .find(|holder| (holder.session, holder.ticket) == (request.session, request.ticket))?;
        Some(match holder.holding {
            Holding::Fixed { returned: true, .. } => Outcome::Withdrawn,
            Holding::Fixed { until, .. } if until <= self.now => Outcome::Withdrawn,
            _ => Outcome::Granted { token: holder.token },
        })
    }

    fn is_queued(&self, request: &Request) -> bool {
        self.record.queue.iter().any(|w| (w.session, w.ticket) == (request.session, request.ticket))
    }

    /// The one rule: all holders, all earlier waiters and the claim itself fit the capacity.
    fn fits(&self, request: &Request) -> bool {
        if self.record.is_idle() {
            return true;
        }
        let waiting: u64 = self.record.queue.iter().map(|waiter| u64::from(waiter.weight)).sum();
        self.record.capacity == request.permit.capacity()
            && self.held() + waiting + u64::from(request.permit.weight())
                <= u64::from(request.permit.capacity())
    }

    /// By the weight under which it joined, whatever a later copy of its claim says.
    fn head_fits(&self) -> bool {
        let head = self.record.queue.front();
        head.is_some_and(|head| self.held() + u64::from(head.weight) <= u64::from(self.record.capacity))
    }

    fn held(&self) -> u64 {
        self.record.holders.iter().map(|holder| u64::from(holder.weight)).sum()
    }

    fn grant_now(&mut self, request: &Request) -> Outcome {
        let Some(token) = self.next_token() else { return Outcome::FenceExhausted };
        self.record.capacity = request.permit.capacity();
        self.hold(waiter(request), token);
        Outcome::Granted { token }
    }

    fn hold(&mut self, waiter: Waiter, token: FencingToken) {
        self.record.fence = token.get();
        self.record.holders.push(Holder {
            session: waiter.session,
            ticket: waiter.ticket,
            token,
            mode: waiter.mode,
            weight: waiter.weight,
            holding: Holding::granted(waiter.term, self.now),
            note: waiter.note,
        });
        self.changed = true;
    }

    fn next_token(&self) -> Option<FencingToken> {
        FencingToken::new(self.record.fence.saturating_add(1).max(self.proposed_token)).ok()
    }

    fn give_back(&mut self, index: usize) {
        match self.record.holders[index].holding {
            Holding::Session { at_least_until } if at_least_until > self.now => {
                self.record.holders[index].holding = Holding::Fixed { until: at_least_until, returned: true };
            }
            _ => {
                self.record.holders.remove(index);
            }
        }
    }

    fn blocker(&self) -> Option<Blocker> {
        let holder = self.record.holders.first()?;
        Some(Blocker { session: holder.session, token: holder.token, until: holder.holding.fixed_until() })
    }
}

fn waiter(request: &Request) -> Waiter {
    Waiter {
        session: request.session,
        ticket: request.ticket,
        mode: request.mode,
        weight: request.permit.weight(),
        term: request.term,
        note: request.note.clone(),
    }
}
