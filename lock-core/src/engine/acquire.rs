//! Acquiring: as one call, within the caller's patience.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tracing::{Instrument, Span};

use super::call::Caller;
use super::hold::Hold;
use super::lease::Lease;
use super::place::Place;
use super::session::OpenSession;
use super::waiting::News;
use super::{Core, Engine};
use crate::backend::{Claim, Claimed, Proof, Term};
use crate::clock::{BootTime, Pause};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::hold::{Busy, Reason};
use crate::holder::Note;
use crate::key::LockKey;
use crate::mode::{Mode, Permit};
use crate::telemetry;

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
pub(super) struct Sighting(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Who was in the way, and when the store said so.
    busy: Option<(Busy, BootTime)>,
    /// What went wrong since.
    error: Option<Error>,
    /// Whether the store is still heard of.
    lease: Option<Arc<Lease>>,
}

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
            sighting.session(&session);
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
                        sighting.busy(busy, self.clock.boot());
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

impl Sighting {
    fn busy(&self, busy: Busy, now: BootTime) {
        let mut seen = self.seen();
        (seen.busy, seen.error) = (Some((busy, now)), None);
    }

    fn session(&self, session: &OpenSession) {
        self.seen().lease = Some(session.lease().clone());
    }

    pub(super) fn error(&self, error: Error) {
        self.seen().error = Some(error);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store that was not reached is never "busy".
    fn out_of_patience(&self, core: &Core, ask: &Ask) -> Error {
        let Seen { busy, error, lease } = std::mem::take(&mut *self.seen());
        let now = core.clock.boot();
        let is_away = lease.is_some_and(|lease| now >= lease.overdue());
        let error = match (error, busy) {
            (Some(error), _) => error,
            (None, Some((busy, seen))) if is_away => Error::new(
                ErrorKind::TimedOut,
                format!(
                    "the store has acknowledged no renewal for long: is it running, and reachable? The lock was {}",
                    busy.aged(now.since(seen))
                ),
            ),
            (None, Some((busy, seen))) => {
                Error::new(ErrorKind::WaitTimedOut(Box::new(busy.aged(now.since(seen)))), "")
            }
            (None, None) => core.hindrance(core.backend.domain(&ask.key)).unwrap_or_else(|| {
                Error::new(
                    ErrorKind::TimedOut,
                    "the store gave no answer for as long as the caller was ready to wait; nothing is held",
                )
            }),
        };
        Caller::new(core, Operation::Acquire).on(&ask.key).explain(error)
    }
}

fn shut_down(core: &Core, key: &LockKey) -> Error {
    let error = Error::new(ErrorKind::ShutDown, "this client was shut down and acquires nothing any more");
    Caller::new(core, Operation::Acquire).on(key).explain(error)
}
