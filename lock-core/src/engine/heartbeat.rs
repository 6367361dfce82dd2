//! A session's heartbeat: renewal, verification, and the ends that come by time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::call::Caller;
use super::claims::Asked;
use super::race::{First, race};
use super::session::OpenSession;
use crate::backend::{ClaimRef, Renewal};
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::hold::{End, Reason};
use crate::telemetry;

/// Keeps a session until it is over or its client closes, then closes it as a best effort.
pub(super) async fn keep(session: &Arc<OpenSession>) {
    let attendance = Attendance(session);
    Beat::new(session).run().await;
    drop(attendance);
    close(session.clone()).await;
}

/// Closes a session for the store, as a best effort.
pub(super) async fn close(session: Arc<OpenSession>) {
    if let Some(open) = session.session() {
        let caller = Caller::new(session.core(), Operation::Close);
        if let Err(error) = caller.call(open.close()).await {
            tracing::debug!(target: telemetry::TARGET, %error, "a session was left to its TTL");
        }
    }
}

/// However the heartbeat ends, also with its runtime: whoever relied on it is told.
struct Attendance<'a>(&'a Arc<OpenSession>);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.leave_unattended();
    }
}

type InFlight = Pin<Box<dyn Future<Output = Result<Renewal>> + Send>>;

struct Beat<'a> {
    session: &'a Arc<OpenSession>,
    /// When the next renewal is due.
    due: BootTime,
    in_flight: Option<(BootTime, Vec<Asked>, InFlight)>,
    pauses: Option<Box<dyn Iterator<Item = Duration> + Send>>,
}

enum Woken {
    Renewed(Result<Renewal>),
    Timer,
    Nudged,
    Closing,
}

impl<'a> Beat<'a> {
    fn new(session: &'a Arc<OpenSession>) -> Beat<'a> {
        // Counted from when the opening was sent, as from any renewal: its answer may have taken long.
        let ttl = session.lease().ttl();
        let due = session.lease().overdue() - ttl / 3 * 2 + jittered(ttl / 3);
        Beat { session, due, in_flight: None, pauses: None }
    }

    async fn run(&mut self) {
        loop {
            if let Some(reason) = self.session.lease().over() {
                return self.session.end(reason);
            }
            let now = self.session.core().clock.boot();
            self.end_the_aged(now);
            if self.in_flight.is_none() && now >= self.due {
                self.send(now);
            }
            match self.wait().await {
                Woken::Renewed(answer) => self.answered(answer),
                Woken::Timer | Woken::Nudged => {}
                Woken::Closing => {
                    self.in_flight = None;
                    return self.part().await;
                }
            }
        }
    }

    /// A renewal that hangs delays nothing: the deadline is waited for beside it.
    async fn wait(&mut self) -> Woken {
        let core = self.session.core().clone();
        let mut until = self.session.lease().deadline();
        until = self.session.claims().next_end().map_or(until, |at| until.min(at));
        if self.in_flight.is_none() {
            until = until.min(self.due);
        }
        let in_flight = self.in_flight.as_mut().map(|(_, _, call)| call);
        let renewal = async {
            match in_flight {
                Some(call) => call.await,
                None => std::future::pending().await,
            }
        };
        let timer = race(core.clock.wake_at(until), self.session.nudged());
        match race(race(core.closing.closed(), renewal), timer).await {
            First::Left(First::Left(())) => Woken::Closing,
            First::Left(First::Right(answer)) => Woken::Renewed(answer),
            First::Right(First::Left(())) => Woken::Timer,
            First::Right(First::Right(())) => Woken::Nudged,
        }
    }

    /// The client closes: what is being released first gets its time, for it may have more to say than a session's end.
    async fn part(&mut self) {
        let core = self.session.core();
        race(core.jobs.drained(), core.clock.sleep(core.settings.call_timeout)).await;
        self.session.end(Reason::ShutDown);
    }

    fn send(&mut self, now: BootTime) {
        let core = self.session.core().clone();
        let Some(open) = self.session.session().cloned() else { return };
        let asked = self.session.claims().next_chunk(core.info.capabilities.verify_chunk);
        let known: Vec<ClaimRef> = asked.iter().map(|asked| asked.claim.clone()).collect();
        let limit = self.session.lease().ttl() / 3;
        let call = async move {
            Caller::new(&core, Operation::Renew).at_most(limit).call(async { open.renew(&known).await }).await
        };
        // The instant was taken before anything was sent: validity counts from it.
        self.in_flight = Some((now, asked, Box::pin(call)));
    }

    fn answered(&mut self, answer: Result<Renewal>) {
        let Some((sent, asked, _)) = self.in_flight.take() else { return };
        let lease = self.session.lease();
        match answer.and_then(|renewal| self.complete(renewal, asked.len())) {
            Ok(renewal) => {
                if let Some(ttl) = renewal.ttl {
                    lease.adopt_ttl(ttl, sent);
                }
                if !lease.acknowledge(sent) {
                    return;
                }
                self.pauses = None;
                for (asked, standing) in asked.iter().zip(renewal.standings) {
                    let chore = self.session.claims().stands(asked, standing, sent);
                    if let Some(chore) = chore {
                        self.session.perform(chore);
                    }
                }
                self.due = sent + jittered(self.interval(sent));
                self.tell_the_oldest_age();
            }
            Err(error) => {
                if let ErrorKind::SessionLost(reason) = error.kind() {
                    lease.end(*reason);
                    return;
                }
                let retry = self.session.core().settings.retry;
                let pauses = self.pauses.get_or_insert_with(|| Box::new(retry.pauses()));
                self.session.claims().unasked(asked);
                // Sooner than the next beat, or the TTL would end after three errors.
                let pause = pauses.next().unwrap_or_default().min(lease.ttl() / 6);
                tracing::warn!(target: telemetry::TARGET, %error, "a renewal failed; the next in {pause:?}");
                self.due = self.session.core().clock.boot() + pause;
            }
        }
    }

    /// A renewal that says nothing of some claims verifies nothing, and is not to be relied on as one.
    fn complete(&self, renewal: Renewal, asked: usize) -> Result<Renewal> {
        let answered = renewal.standings.len();
        if answered == asked {
            return Ok(renewal);
        }
        let error = Error::new(
            ErrorKind::Protocol,
            format!(
                "the store was asked about {asked} claims and answered about {answered}: its renewals do not count"
            ),
        );
        Err(Caller::new(self.session.core(), Operation::Renew).explain(error))
    }

    /// A third of the TTL; less when so many claims are known that each could not be verified once in two thirds.
    fn interval(&self, now: BootTime) -> Duration {
        let ttl = self.session.lease().ttl();
        let chunk = self.session.core().info.capabilities.verify_chunk;
        self.session.claims().pace(now, ttl / 3 * 2, chunk).min(ttl / 3)
    }

    fn end_the_aged(&self, now: BootTime) {
        let aged = self.session.claims().aged(now);
        for hold in aged {
            if hold.is_leaving() {
                // Its release is under way already.
                hold.finish(End::Lost(Reason::HeldTooLong));
            } else {
                self.session.drop_hold(&hold, Reason::HeldTooLong);
            }
        }
    }

    fn tell_the_oldest_age(&self) {
        let now = self.session.core().clock.boot();
        let holds = self.session.claims().oldest_holds(8);
        if let Some(oldest) = holds.iter().map(|hold| hold.age(now)).max() {
            telemetry::oldest_hold(oldest);
        }
    }
}

/// Up to a tenth earlier, so that clients that started together do not beat together.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(1.0 - 0.1 * fastrand::f64())
}
