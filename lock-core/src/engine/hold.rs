//! One hold: what a guard, its handles and its session's heartbeat share.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::lease::Lease;
use super::race::{First, race};
use crate::backend::{Certainty, ClaimRef};
use crate::clock::BootTime;
use crate::hold::{End, HoldState, Reason};
use crate::mode::Mode;
use crate::telemetry;
use crate::token::FencingToken;

#[derive(Debug)]
pub(crate) struct Hold {
    claim: ClaimRef,
    mode: Mode,
    token: FencingToken,
    lease: Arc<Lease>,
    certainty: Certainty,
    began: BootTime,
    ends_at: Option<BootTime>,
    /// When what last confirmed this hold was sent, or heard.
    verified: AtomicU64,
    end: OnceLock<End>,
    ended: Notify,
    wanted: AtomicBool,
    /// Somebody releases it already.
    leaving: AtomicBool,
    warned: AtomicBool,
    /// The task that would tell of the session's end is gone: whoever waits for it needs a timer of its own.
    unattended: AtomicBool,
}

impl Hold {
    pub(super) fn new(
        claim: ClaimRef,
        mode: Mode,
        token: FencingToken,
        lease: Arc<Lease>,
        certainty: Certainty,
        at_most: Option<Duration>,
    ) -> Hold {
        let began = lease.clock().boot();
        Hold {
            claim,
            mode,
            token,
            lease,
            certainty,
            began,
            ends_at: at_most.map(|age| began + age),
            verified: AtomicU64::new(began.as_nanos()),
            end: OnceLock::new(),
            ended: Notify::new(),
            wanted: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            unattended: AtomicBool::new(false),
        }
    }

    pub(crate) fn claim(&self) -> &ClaimRef {
        &self.claim
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.token
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    pub(super) fn certainty(&self) -> Certainty {
        self.certainty
    }

    pub(super) fn ends_at(&self) -> Option<BootTime> {
        self.ends_at
    }

    pub(super) fn began(&self) -> BootTime {
        self.began
    }

    pub(super) fn age(&self, now: BootTime) -> Duration {
        now.since(self.began)
    }

    /// How it stands at this instant. Reads the clock itself: right also when no task of the runtime has run for long.
    pub(crate) fn state(&self) -> HoldState {
        if let Some(&end) = self.end.get() {
            return HoldState::Ended(end);
        }
        let now = self.lease.clock().boot();
        if self.ends_at.is_some_and(|at| now >= at) {
            return HoldState::Ended(self.finish(End::Lost(Reason::HeldTooLong)));
        }
        if let Some(reason) = self.lease.over() {
            return HoldState::Ended(self.finish(End::Lost(reason)));
        }
        let until = self.until();
        if now >= self.risky_at() { HoldState::AtRisk { until } } else { HoldState::Held { until } }
    }

    /// Ends it, unless it ended before; the end that counts.
    pub(super) fn finish(&self, end: End) -> End {
        let mut first = false;
        let end = *self.end.get_or_init(|| {
            first = true;
            end
        });
        if first {
            telemetry::ended(self.lease.clock().boot().since(self.began), end);
            self.ended.notify_waiters();
        }
        end
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// How it ends. Owns what it needs, so that it can outlive the guard.
    pub(crate) fn ending(self: &Arc<Hold>) -> impl Future<Output = End> + Send + 'static {
        let hold = self.clone();
        async move {
            loop {
                let mut told = std::pin::pin!(hold.ended.notified());
                // Registered before the look: an end between the two is not missed.
                told.as_mut().enable();
                let (HoldState::Held { until } | HoldState::AtRisk { until }) = hold.state() else { break };
                if hold.unattended.load(Ordering::Acquire) {
                    race(told, hold.lease.clock().wake_at(until)).await;
                } else {
                    told.await;
                }
            }
            // It cannot be anything else here: the loop ends with an end.
            hold.end().unwrap_or(End::Lost(Reason::Expired))
        }
    }

    /// Resolves when the state becomes another kind of state than this one, to that state.
    pub(crate) async fn changed(&self, from: HoldState) -> HoldState {
        loop {
            let mut told = std::pin::pin!(self.ended.notified());
            let mut renewed = std::pin::pin!(self.lease.renewed().notified());
            told.as_mut().enable();
            renewed.as_mut().enable();
            let state = self.state();
            if std::mem::discriminant(&state) != std::mem::discriminant(&from) {
                return state;
            }
            let next = match state {
                HoldState::Held { .. } => self.risky_at(),
                HoldState::AtRisk { until } => until,
                HoldState::Ended(_) => return state,
            };
            let timer = self.lease.clock().wake_at(next);
            match race(told, race(renewed, timer)).await {
                First::Left(()) | First::Right(_) => {}
            }
        }
    }

    /// Resolves when the deadline has moved beyond this instant, or the hold has ended.
    pub(crate) async fn extended(&self, beyond: BootTime) -> HoldState {
        loop {
            let mut told = std::pin::pin!(self.ended.notified());
            let mut renewed = std::pin::pin!(self.lease.renewed().notified());
            told.as_mut().enable();
            renewed.as_mut().enable();
            let state = self.state();
            let (HoldState::Held { until } | HoldState::AtRisk { until }) = state else { return state };
            if until > beyond {
                return state;
            }
            let news = race(told, renewed);
            if self.unattended.load(Ordering::Acquire) {
                race(news, self.lease.clock().wake_at(until)).await;
            } else {
                news.await;
            }
        }
    }

    /// True for the first who asks: the one who releases it.
    pub(super) fn begin_release(&self) -> bool {
        let first = !self.leaving.swap(true, Ordering::AcqRel);
        if first {
            // The store may grant it to another long before the answer arrives: work under it stops now.
            self.ended.notify_waiters();
        }
        first
    }

    /// Its release has begun.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The store confirmed it by an answer to what was sent at this instant.
    pub(super) fn verified(&self, at: BootTime) {
        self.verified.fetch_max(at.as_nanos(), Ordering::AcqRel);
    }

    pub(super) fn wanted(&self) {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            telemetry::wanted();
        }
    }

    /// Whether somebody was seen to wait for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn leave_unattended(&self) {
        self.unattended.store(true, Ordering::Release);
        self.ended.notify_waiters();
    }

    /// True once: for a hold without a greatest age that has outlived ten TTLs, and may have been leaked.
    pub(super) fn seems_leaked(&self, now: BootTime) -> bool {
        self.ends_at.is_none()
            && self.age(now) > self.lease.ttl() * 10
            && !self.warned.swap(true, Ordering::Relaxed)
    }

    fn until(&self) -> BootTime {
        let deadline = self.lease.deadline();
        self.ends_at.map_or(deadline, |at| at.min(deadline))
    }

    fn risky_at(&self) -> BootTime {
        let verified = BootTime::from_nanos(self.verified.load(Ordering::Acquire));
        self.lease.overdue().min(verified + self.lease.ttl())
    }
}
