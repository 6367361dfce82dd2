//! Giving back: by the guard's own call, by its drop, and for whatever was left behind.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::call::Caller;
use super::hold::Hold;
use super::session::OpenSession;
use crate::backend::{Certainty, ClaimRef, Released};
use crate::clock::BootTime;
use crate::error::{ErrorKind, Operation, Result};
use crate::hold::{End, HoldState, Reason};
use crate::telemetry;

impl OpenSession {
    /// Releases a hold, and says how it ended. Dropping the future changes nothing: the release goes on in a job.
    pub(crate) async fn release(self: &Arc<OpenSession>, hold: &Arc<Hold>) -> Result<End> {
        if let HoldState::Ended(end) = hold.state() {
            return Ok(end);
        }
        hold.begin_release();
        let claim = hold.claim().clone();
        self.claims().leave(claim.ticket);
        let call = attempt(self.clone(), claim, hold.certainty());
        let mut release = Release { session: self, hold, call: Some(Box::pin(call)) };
        release.answer().await
    }

    /// Releases a hold whose guard was dropped. Sends a job, and does nothing else.
    pub(crate) fn release_dropped(self: &Arc<OpenSession>, hold: &Hold) {
        if hold.state().is_held() && hold.begin_release() {
            hold.finish(End::Released);
            self.claims().leave(hold.claim().ticket);
            self.release_in_a_job(hold.claim().clone(), hold.certainty());
        }
    }
}

/// One release on its way. Dropped before its answer, it hands itself over.
struct Release<'a> {
    session: &'a Arc<OpenSession>,
    hold: &'a Arc<Hold>,
    call: Option<Pin<Box<dyn Future<Output = Result<Released>> + Send>>>,
}

impl Release<'_> {
    async fn answer(&mut self) -> Result<End> {
        let Some(call) = self.call.as_mut() else { return Ok(End::Released) };
        let answer = call.as_mut().await;
        self.call = None;
        conclude(self.session, self.hold, answer)
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let (session, hold) = (self.session.clone(), self.hold.clone());
        self.session.core().jobs.hand_over(async move {
            let answer = call.await;
            // Whoever asked has gone; a failure goes on by itself.
            let _ = conclude(&session, &hold, answer);
        });
    }
}

fn conclude(session: &Arc<OpenSession>, hold: &Arc<Hold>, answer: Result<Released>) -> Result<End> {
    let claim = hold.claim();
    match answer {
        Ok(released) => {
            session.claims().forget(claim.ticket);
            Ok(hold.finish(match released {
                Released::Done => End::Released,
                Released::Gone => End::Lost(Reason::Forgotten),
            }))
        }
        Err(error) => match error.kind() {
            ErrorKind::SessionLost(reason) => {
                session.claims().forget(claim.ticket);
                session.end_by_the_store(*reason);
                Ok(hold.finish(End::Lost(*reason)))
            }
            _ => {
                hold.finish(End::Released);
                session.release_in_a_job(claim.clone(), hold.certainty());
                Err(error)
            }
        },
    }
}

/// Releases until the store has answered, and returns that; or the session is over and the TTL answers.
///
/// What a detached claim may have been granted outlives the session, and nobody was told its token: for that it goes on
/// until the term ends, or the client.
pub(super) async fn settle(
    session: Arc<OpenSession>,
    claim: ClaimRef,
    certainty: Certainty,
    outlives: Option<BootTime>,
) -> Option<Released> {
    let core = session.core().clone();
    let mut pauses = core.settings.retry.pauses();
    let goes_on = || outlives.is_some_and(|end| core.clock.boot() < end && !core.closing.is_closed());
    let mut answer = None;
    while session.lease().over().is_none() || goes_on() {
        match attempt(session.clone(), claim.clone(), certainty).await {
            Ok(released) => {
                answer = Some(released);
                break;
            }
            Err(error) => {
                if let ErrorKind::SessionLost(reason) = error.kind() {
                    session.end_by_the_store(*reason);
                    break;
                }
                let pause = pauses.next().unwrap_or_default();
                tracing::debug!(target: telemetry::TARGET, %error, "a release goes on in {pause:?}");
                core.clock.sleep(pause).await;
            }
        }
    }
    session.claims().forget(claim.ticket);
    answer
}

async fn attempt(session: Arc<OpenSession>, claim: ClaimRef, certainty: Certainty) -> Result<Released> {
    let caller = Caller::new(session.core(), Operation::Release).on(&claim.key);
    match session.session() {
        Some(open) => caller.call(open.release(&claim, certainty)).await,
        // A session that was never opened granted nothing.
        None => Ok(Released::Gone),
    }
}
