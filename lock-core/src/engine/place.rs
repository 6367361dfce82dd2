//! A claim's place with the store: sent, waited for, retried and, whatever happens to its future, never left behind.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::acquire::{Ask, Sighting, Won};
use super::call::Caller;
use super::hold::Hold;
use super::race::{First, race};
use super::release::settle;
use super::session::OpenSession;
use super::waiting::News;
use crate::backend::{Certainty, Claim, ClaimRef, Claimed, Proof, Term};
use crate::error::{Effect, Error, ErrorKind, Operation, Result};
use crate::hold::Reason;
use crate::telemetry;
use crate::token::FencingToken;

/// A waiter that hears nothing asks again after so many TTLs.
const SELDOM: u32 = 3;

type Flight = Pin<Box<dyn Future<Output = Result<Claimed>> + Send>>;

/// A claim's place with the store, from its first sending until it is won or given up.
///
/// Dropped before that, it is withdrawn by a job: after the attempt that is under way has settled.
pub(super) struct Place {
    session: Arc<OpenSession>,
    claim: Arc<Claim>,
    flight: Option<Flight>,
    /// The store may know the claim.
    known: bool,
    /// A copy was sent that nobody waits for any more: it may still arrive. For good: a later answer is another copy's.
    loose: bool,
    won: bool,
}

impl Place {
    pub(super) fn take(session: Arc<OpenSession>, claim: Claim) -> Result<Place> {
        let entered = session.claims().enter(claim.ticket, claim.key.clone());
        let claim = Arc::new(claim);
        let place = Place { session, claim, flight: None, known: false, loose: false, won: false };
        match entered {
            Ok(()) => Ok(place),
            Err(reason) => Err(place.lost(reason)),
        }
    }

    /// Sends the claim once. A grant that is pushed meanwhile beats the reply.
    pub(super) async fn claim(&mut self) -> Result<Claimed> {
        let (session, claim) = (self.session.clone(), self.claim.clone());
        let flight = async move {
            let caller = Caller::new(session.core(), Operation::Claim).on(&claim.key);
            match session.session() {
                Some(open) => caller.call(open.claim(&claim)).await,
                None => Err(caller.explain(Error::session_lost(Reason::SessionEnded))),
            }
        };
        self.flight = Some(Box::pin(flight));
        let first = !self.known;
        self.known = true;
        let fixed = self.is_fixed();
        let (mut flight, ticket, session) = (self.flight.as_mut(), self.claim.ticket, &self.session);
        let reply = poll_fn(|context| {
            if let Some(Poll::Ready(reply)) = flight.as_mut().map(|flight| flight.as_mut().poll(context)) {
                return Poll::Ready(First::Left(reply));
            }
            let mut claims = session.claims();
            match (!fixed).then(|| claims.take_grant(ticket)).flatten() {
                Some(grant) => Poll::Ready(First::Right(Ok(grant))),
                None => claims.poll_over(ticket, context.waker()).map(|reason| First::Right(Err(reason))),
            }
        })
        .await;
        self.flight = None;
        match reply {
            First::Left(reply) => self.replied(reply, first),
            First::Right(early) => {
                self.loose = true;
                let (token, proof) = early.map_err(|reason| self.lost(reason))?;
                Ok(Claimed::Granted { token, proof })
            }
        }
    }

    fn replied(&mut self, reply: Result<Claimed>, first: bool) -> Result<Claimed> {
        if let Err(error) = &reply {
            match error.took_effect() {
                Effect::NotApplied => self.known = !first,
                Effect::Unknown => self.loose = true,
            }
            if let ErrorKind::SessionLost(reason) = error.kind() {
                self.session.end_by_the_store(*reason);
            }
            return reply;
        }
        let grant = self.session.claims().take_grant(self.claim.ticket);
        match (reply, grant) {
            (Ok(Claimed::Granted { token, .. }), Some((pushed, _))) if pushed != token => {
                // Two grants for one ticket: whichever counts, this claim is not to be relied on.
                self.loose = true;
                Err(self.explain(Error::new(
                    ErrorKind::Protocol,
                    format!(
                        "the store granted one claim twice, under {token} and under {pushed}; it is released"
                    ),
                )))
            }
            (Ok(Claimed::Queued { .. }), Some((token, proof))) => Ok(Claimed::Granted { token, proof }),
            (Ok(Claimed::Busy(busy)), _) => {
                self.known = false;
                Ok(Claimed::Busy(busy))
            }
            (reply, _) => {
                if let Ok(Claimed::Queued { .. }) = reply {
                    let now = self.session.core().clock.boot();
                    self.session.claims().queued(self.claim.ticket, now);
                }
                reply
            }
        }
    }

    /// Sends the claim, and after a transport error again, for as long as the policy allows.
    pub(super) async fn claim_until(&mut self, sighting: &Sighting) -> Result<Claimed> {
        let core = self.session.core().clone();
        let give_up_at = core.clock.boot() + core.settings.retry.patience();
        let mut pauses = core.settings.retry.pauses();
        loop {
            let error = match self.claim().await {
                Ok(claimed) => return Ok(claimed),
                Err(error) => error,
            };
            let pause = pauses.next().unwrap_or_default();
            let transport = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut);
            if self.is_fixed()
                || !transport
                || !error.is_retryable()
                || core.clock.boot() + pause >= give_up_at
            {
                return Err(error);
            }
            tracing::debug!(target: telemetry::TARGET, %error, "claiming again in {pause:?}");
            sighting.error(error);
            // A lost reply may have been a place in the queue: its grant may come before the next try.
            if let First::Left((token, proof)) = race(self.granted(), core.clock.sleep(pause)).await {
                return Ok(Claimed::Granted { token, proof });
            }
        }
    }

    /// Resolves when a grant is pushed. The end of the session is the next try's to find out.
    async fn granted(&mut self) -> (FencingToken, Proof) {
        poll_fn(|context| {
            let mut claims = self.session.claims();
            match claims.take_grant(self.claim.ticket) {
                Some(grant) => Poll::Ready(grant),
                None => {
                    let _ = claims.poll_over(self.claim.ticket, context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits for news, or until it is time to ask again.
    ///
    /// A renewal may bring that forward and never puts it off: whoever only waits for a holder that goes on renewing
    /// would never ask again, and a store that polls would never be polled.
    pub(super) async fn wait(&mut self, recheck_in: Option<Duration>) -> News {
        let core = self.session.core().clone();
        // Whoever is never told when to ask again, or not for long, asks once in a while all the same. A store that lost a wake-up
        // without knowing it, or has nobody look after a head that died, would keep its waiters for ever otherwise.
        let seldom = self.session.lease().ttl() * SELDOM;
        let mut recheck_at = core.clock.boot() + recheck_in.map_or(seldom, |time| time.min(seldom));
        loop {
            let ticket = self.claim.ticket;
            let news = poll_fn(|context| match self.session.claims().poll_news(ticket, context.waker()) {
                Some(news) => Poll::Ready(news),
                None => Poll::Pending,
            });
            match race(news, core.clock.sleep(recheck_at.since(core.clock.boot()))).await {
                First::Left(News::RecheckIn(time)) => recheck_at = recheck_at.min(core.clock.boot() + time),
                First::Left(news) => return news,
                First::Right(()) => return News::Recheck,
            }
        }
    }

    /// Makes a hold of the grant, unless it came too late to be one.
    pub(super) fn win(mut self, token: FencingToken, proof: Proof, ask: &Ask) -> Result<Won> {
        if let Some(reason) = self.session.lease().over() {
            return Err(self.lost(reason));
        }
        let hold = Arc::new(Hold::new(
            self.claim.reference(),
            ask.mode,
            token,
            self.session.lease().clone(),
            self.certainty(),
            ask.at_most,
        ));
        let mut claims = self.session.claims();
        if let Some(reason) = claims.over() {
            drop(claims);
            return Err(self.lost(reason));
        }
        // The news of its end may have overtaken that of the grant.
        let revoked = claims.revoked(self.claim.ticket);
        if let (Some(reason), true) = (revoked, self.is_fixed()) {
            drop(claims);
            return Err(self.lost(reason));
        }
        match self.claim.term {
            // It does not live by the session, so the session has nothing to keep.
            Term::Fixed(_) => claims.forget(self.claim.ticket),
            Term::Session { .. } => claims.hold(self.claim.ticket, &hold),
        }
        drop(claims);
        self.won = true;
        if let Some(reason) = revoked {
            self.session.drop_hold(&hold, reason);
        } else if ask.at_most.is_some() {
            self.session.nudge();
        }
        Ok(Won { session: self.session.clone(), hold, proof })
    }

    /// A hold that outlives its release: a copy of its claim that arrives after its end would be granted again, with
    /// nobody left to withdraw it. So at most one copy is ever on its way.
    fn is_fixed(&self) -> bool {
        matches!(self.claim.term, Term::Fixed(_))
    }

    fn certainty(&self) -> Certainty {
        if self.loose { Certainty::MaybeInFlight } else { Certainty::Settled }
    }

    pub(super) fn lost(&self, reason: Reason) -> Error {
        self.explain(Error::session_lost(reason))
    }

    fn explain(&self, error: Error) -> Error {
        Caller::new(self.session.core(), Operation::Acquire).on(&self.claim.key).explain(error)
    }
}

impl Drop for Place {
    /// Sends a job; never spawns, blocks or panics.
    fn drop(&mut self) {
        if self.won {
            return;
        }
        if !self.known {
            self.session.claims().forget(self.claim.ticket);
            return;
        }
        self.session.claims().leave(self.claim.ticket);
        let (session, claim, certainty) = (self.session.clone(), self.claim.reference(), self.certainty());
        let outlives = match self.claim.term {
            Term::Fixed(time) => Some(session.core().clock.boot() + time),
            Term::Session { .. } => None,
        };
        let at_least = matches!(self.claim.term, Term::Session { at_least } if !at_least.is_zero());
        let flight = self.flight.take();
        self.session.core().jobs.hand_over(async move {
            let certainty = match flight {
                None => certainty,
                Some(flight) => match flight.await {
                    Ok(Claimed::Busy(_)) => return session.claims().forget(claim.ticket),
                    Ok(_) => certainty,
                    Err(_) => Certainty::MaybeInFlight,
                },
            };
            settle(session.clone(), claim.clone(), certainty, outlives).await;
            if at_least {
                forgo(&session, &claim).await;
            }
        });
    }
}

/// Nobody ever held what was withdrawn: it has no `hold_at_least` to sit out. Best effort.
async fn forgo(session: &OpenSession, claim: &ClaimRef) {
    let core = session.core();
    let caller = Caller::new(core, Operation::Release).on(&claim.key);
    let Ok(state) = caller.call(core.backend.inspect(&claim.key)).await else { return };
    let left = state.holders.iter().find(|h| (h.session, h.ticket) == (session.id(), claim.ticket));
    if let Some(left) = left {
        let _ = caller.call(core.backend.force_release(&claim.key, Some(left.token))).await;
    }
}
