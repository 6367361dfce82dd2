//! Acquiring: one claim, waited for, retried and, whatever happens to its future, never left behind.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tracing::{Instrument, Span};

use super::call::Caller;
use super::claims::News;
use super::hold::Hold;
use super::race::{First, race};
use super::release::settle;
use super::session::OpenSession;
use super::{Core, Engine};
use crate::backend::{Certainty, Claim, Claimed, Proof, Term};
use crate::clock::Pause;
use crate::error::{Effect, Error, ErrorKind, Operation, Result};
use crate::hold::{Busy, Reason};
use crate::holder::Note;
use crate::key::LockKey;
use crate::mode::{Mode, Permit};
use crate::telemetry;
use crate::token::FencingToken;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) key: LockKey,
    pub(crate) mode: Mode,
    pub(crate) permit: Permit,
    pub(crate) term: Term,
    pub(crate) note: Option<Note>,
    pub(crate) at_most: Option<Duration>,
    pub(crate) patience: Patience,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// One attempt, without transport retry.
    Once,
    AtMost(Duration),
    Unbounded,
}

/// A grant, and the session that it lives by.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) session: Arc<OpenSession>,
    pub(crate) hold: Arc<Hold>,
    pub(crate) proof: Proof,
}

/// What is known of the way so far, for the error of whoever loses patience.
#[derive(Debug, Default)]
struct Sighting(Mutex<(Option<Busy>, Option<Error>)>);

impl Engine {
    /// Acquires, or says who is in the way. Dropping the future withdraws the claim.
    pub(crate) async fn acquire(&self, ask: &Ask) -> Result<Result<Won, Busy>> {
        let span = telemetry::acquire_span(&ask.key, ask.mode);
        self.acquire_in(ask, &span).instrument(span.clone()).await
    }

    async fn acquire_in(&self, ask: &Ask, span: &Span) -> Result<Result<Won, Busy>> {
        let core = &self.core;
        if core.closing.is_begun() {
            return Err(shut_down(core, &ask.key));
        }
        let began = core.clock.boot();
        let sighting = Sighting::default();
        let outcome = {
            let mut attempt = pin!(core.attempt(ask, &sighting));
            let mut limits: Option<(Option<Pause>, Pin<Box<_>>)> = None;
            poll_fn(|context| {
                if let Poll::Ready(outcome) = attempt.as_mut().poll(context) {
                    return Poll::Ready(outcome);
                }
                // Only whoever has to wait pays for a timer.
                let (patience, closing) = limits.get_or_insert_with(|| {
                    let patience = match ask.patience {
                        Patience::AtMost(time) => Some(core.clock.sleep(time)),
                        Patience::Once | Patience::Unbounded => None,
                    };
                    (patience, Box::pin(core.closing.begun()))
                });
                if closing.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(shut_down(core, &ask.key)));
                }
                match patience {
                    Some(patience) => {
                        patience.as_mut().poll(context).map(|()| Err(sighting.out_of_patience(core, ask)))
                    }
                    None => Poll::Pending,
                }
            })
            .await
        };
        if let Ok(Ok(won)) = &outcome {
            // Entered among the holds before this look: either the shutdown finds it there, or it is found out here.
            if core.closing.is_begun() && !matches!(ask.term, Term::Fixed(_)) {
                won.session.drop_hold(&won.hold, Reason::ShutDown);
                return Err(shut_down(core, &ask.key));
            }
        }
        match &outcome {
            Ok(Ok(won)) => {
                span.record("token", won.hold.token().get());
                telemetry::acquired(core.clock.boot().since(began));
            }
            Ok(Err(_)) => telemetry::busy(),
            Err(error) if error.busy().is_some() => telemetry::busy(),
            Err(_) => {}
        }
        outcome
    }
}

impl Core {
    async fn attempt(self: &Arc<Core>, ask: &Ask, sighting: &Sighting) -> Result<Result<Won, Busy>> {
        let once = ask.patience == Patience::Once;
        let domain = self.backend.domain(&ask.key);
        loop {
            let session = self.session(domain, once).await.map_err(|error| error.on(&ask.key))?;
            let claim = Claim::new(ask.key.clone(), self.next_ticket(), ask.mode, ask.permit)
                .waiting(!once)
                .term(ask.term)
                .note(ask.note.clone());
            let mut place = Place::take(session, claim)?;
            loop {
                let reply = if once { place.claim().await } else { place.claim_until(sighting).await };
                let recheck_in = match reply? {
                    Claimed::Granted { token, proof } => return place.win(token, proof, ask).map(Ok),
                    Claimed::Busy(busy) => return Ok(Err(busy)),
                    Claimed::Queued { recheck_in, busy } => {
                        telemetry::blocked(&busy);
                        sighting.busy(busy);
                        recheck_in
                    }
                };
                match place.wait(recheck_in).await {
                    News::Granted { token, proof } => return place.win(token, proof, ask).map(Ok),
                    News::Recheck | News::RecheckIn(_) => {}
                    // Its place in the queue is lost, the session is not: again, at the tail.
                    News::Gone | News::Revoked(_) => break,
                    News::Over(reason) => return Err(place.lost(reason)),
                }
            }
        }
    }
}

type Flight = Pin<Box<dyn Future<Output = Result<Claimed>> + Send>>;

/// A claim's place with the store, from its first sending until it is won or given up.
///
/// Dropped before that, it is withdrawn by a job: after the attempt that is under way has settled.
struct Place {
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
    fn take(session: Arc<OpenSession>, claim: Claim) -> Result<Place> {
        let entered = session.claims().enter(claim.ticket, claim.key.clone());
        let claim = Arc::new(claim);
        let place = Place { session, claim, flight: None, known: false, loose: false, won: false };
        match entered {
            Ok(()) => Ok(place),
            Err(reason) => Err(place.lost(reason)),
        }
    }

    /// Sends the claim once. A grant that is pushed meanwhile beats the reply.
    async fn claim(&mut self) -> Result<Claimed> {
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
                self.session.end(*reason);
                self.session.nudge();
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
    async fn claim_until(&mut self, sighting: &Sighting) -> Result<Claimed> {
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
            core.clock.sleep(pause).await;
        }
    }

    /// Waits for news, or until it is time to ask again.
    ///
    /// A renewal may bring that forward and never puts it off: whoever only waits for a holder that goes on renewing
    /// would never ask again, and a store that polls would never be polled.
    async fn wait(&mut self, recheck_in: Option<Duration>) -> News {
        let core = self.session.core().clone();
        let mut recheck_at = recheck_in.map(|time| core.clock.boot() + time);
        loop {
            let ticket = self.claim.ticket;
            let news = poll_fn(|context| match self.session.claims().poll_news(ticket, context.waker()) {
                Some(news) => Poll::Ready(news),
                None => Poll::Pending,
            });
            let news = match recheck_at {
                None => news.await,
                Some(at) => match race(news, core.clock.sleep(at.since(core.clock.boot()))).await {
                    First::Left(news) => news,
                    First::Right(()) => News::Recheck,
                },
            };
            match news {
                News::RecheckIn(time) => {
                    let at = core.clock.boot() + time;
                    recheck_at = Some(recheck_at.map_or(at, |known| known.min(at)));
                }
                news => return news,
            }
        }
    }

    /// Makes a hold of the grant, unless it came too late to be one.
    fn win(mut self, token: FencingToken, proof: Proof, ask: &Ask) -> Result<Won> {
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

    fn lost(&self, reason: Reason) -> Error {
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
        match self.flight.take() {
            None => session.core().jobs.hand_over(settle(session.clone(), claim, certainty, outlives)),
            Some(flight) => self.session.core().jobs.hand_over(async move {
                match flight.await {
                    Ok(Claimed::Busy(_)) => session.claims().forget(claim.ticket),
                    Ok(_) => settle(session, claim, certainty, outlives).await,
                    Err(_) => settle(session, claim, Certainty::MaybeInFlight, outlives).await,
                }
            }),
        }
    }
}

impl Sighting {
    fn busy(&self, busy: Busy) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (Some(busy), None);
    }

    fn error(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(error);
    }

    /// A store that was not reached is never "busy".
    fn out_of_patience(&self, core: &Core, ask: &Ask) -> Error {
        let (busy, error) = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let error = match (error, busy) {
            (Some(error), _) => error,
            (None, Some(busy)) => Error::new(ErrorKind::WaitTimedOut(Box::new(busy)), ""),
            (None, None) => Error::new(
                ErrorKind::TimedOut,
                "the store gave no answer for as long as the caller was ready to wait; nothing is held",
            ),
        };
        Caller::new(core, Operation::Acquire).on(&ask.key).explain(error)
    }
}

fn shut_down(core: &Core, key: &LockKey) -> Error {
    let error = Error::new(ErrorKind::ShutDown, "this client was shut down and acquires nothing any more");
    Caller::new(core, Operation::Acquire).on(key).explain(error)
}
