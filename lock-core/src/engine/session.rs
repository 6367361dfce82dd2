//! One open session: its lease, its claims, and what the store tells it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use super::Core;
use super::claims::{Chore, Claims};
use super::hold::Hold;
use super::lease::Lease;
use super::release::settle;
use crate::backend::{Certainty, ClaimRef, Event, EventSink, Released, Session, SessionId};
use crate::hold::{End, Reason};
use crate::telemetry;

#[derive(Debug)]
pub(crate) struct OpenSession {
    id: SessionId,
    core: Arc<Core>,
    lease: Arc<Lease>,
    /// Set once the store has answered `open`; events may come before.
    session: OnceLock<Arc<dyn Session>>,
    claims: Mutex<Claims>,
    nudge: Notify,
}

impl OpenSession {
    pub(super) fn new(core: &Arc<Core>, id: SessionId) -> Arc<OpenSession> {
        Arc::new(OpenSession {
            id,
            core: core.clone(),
            lease: Arc::new(Lease::new(core.clock.clone(), core.settings.ttl)),
            session: OnceLock::new(),
            claims: Mutex::default(),
            nudge: Notify::new(),
        })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The store's name for it. It is open: a hold lives by it.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(super) fn establish(&self, session: Arc<dyn Session>) {
        // A retried open may answer twice; both are the same session.
        let _ = self.session.set(session);
    }

    /// `None` until it was opened.
    pub(super) fn session(&self) -> Option<&Arc<dyn Session>> {
        self.session.get()
    }

    /// Never held across an await, nor while the backend is called.
    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the heartbeat, to look at its timers again.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Where the backend sends this session's events. It does not keep the session alive.
    pub(super) fn sink(self: &Arc<OpenSession>) -> EventSink {
        let session: Weak<OpenSession> = Arc::downgrade(self);
        EventSink::new(move |event| {
            if let Some(session) = session.upgrade() {
                session.receive(event);
            }
        })
    }

    fn receive(self: &Arc<OpenSession>, event: Event) {
        if let Event::Lost(reason) = event {
            self.end_by_the_store(reason);
            return;
        }
        let now = self.core.clock.boot();
        let chore = self.claims().receive(event, now);
        if let Some(chore) = chore {
            self.perform(chore);
        }
    }

    /// Ends what has to end now, and releases it in a job; says what has to be said.
    pub(super) fn perform(self: &Arc<OpenSession>, chore: Chore) {
        match chore {
            Chore::Orphan(claim) => self.core.jobs.hand_over(free_orphan(self.clone(), claim)),
            Chore::Drop(hold, reason) => self.drop_hold(&hold, reason),
            Chore::Suspect(hold) => {
                telemetry::perhaps_leaked();
                tracing::warn!(
                    target: telemetry::TARGET, key = %hold.claim().key, token = hold.token().get(),
                    age = ?hold.age(self.core.clock.boot()),
                    "held for more than ten TTLs: was its guard leaked? hold_at_most would end it"
                );
            }
        }
    }

    /// Ends a hold for a reason of ours or of the store's, and releases what may be left of it.
    pub(super) fn drop_hold(self: &Arc<OpenSession>, hold: &Hold, reason: Reason) {
        hold.finish(End::Lost(reason));
        tracing::warn!(
            target: telemetry::TARGET, key = %hold.claim().key, token = hold.token().get(), reason = reason.as_str(),
            "lock lost: {reason}"
        );
        hold.begin_release();
        self.claims().leave(hold.claim().ticket);
        self.release_in_a_job(hold.claim().clone(), hold.certainty());
    }

    pub(super) fn release_in_a_job(self: &Arc<OpenSession>, claim: ClaimRef, certainty: Certainty) {
        let settling = settle(self.clone(), claim, certainty, None);
        self.core.jobs.hand_over(async move {
            settling.await;
        });
    }

    /// The store has said that it is over, by an event or in answer to anything: its heartbeat has nothing left to keep.
    ///
    /// Whoever was not renewed in time hears of it from the store as well, if at all. What this client knows by its own clock is
    /// the better reason.
    pub(super) fn end_by_the_store(&self, reason: Reason) {
        self.end(self.lease.over().unwrap_or(reason));
        self.nudge();
    }

    /// Ends the session, with all its holds and waiters.
    pub(super) fn end(&self, reason: Reason) {
        let reason = self.lease.end(reason);
        let holds = self.claims().end(reason);
        for hold in holds.into_iter().filter(|hold| hold.end().is_none()) {
            tracing::warn!(
                target: telemetry::TARGET, key = %hold.claim().key, token = hold.token().get(),
                reason = reason.as_str(), "lock lost: {reason}"
            );
            hold.finish(End::Lost(reason));
        }
    }

    /// The heartbeat is gone. Whoever waits for an end needs a timer of its own, and nobody waits for a grant.
    pub(super) fn leave_unattended(&self) {
        let holds = self.claims().leave_unattended(Reason::ShutDown);
        for hold in holds {
            hold.leave_unattended();
        }
    }
}

/// Releases what a store says is wanted and nobody here knows. Late news of a hold that was given back finds nothing, and
/// leaves nothing behind. What it does find had a release that the store lost; so it may have lost as well that no copy of
/// its claim may take effect any more, and is told again.
async fn free_orphan(session: Arc<OpenSession>, claim: ClaimRef) {
    if settle(session.clone(), claim.clone(), Certainty::Settled, None).await != Some(Released::Done) {
        return;
    }
    tracing::warn!(
        target: telemetry::TARGET, key = %claim.key, ticket = claim.ticket.0,
        "the store kept a grant that nobody owned: it is released"
    );
    settle(session, claim, Certainty::MaybeInFlight, None).await;
}
