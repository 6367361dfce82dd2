//! [`Guard`], which owns a hold, and [`Held`], which looks at one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::BootTime;
use crate::contract::{Ending, Grant, LockGuard};
use crate::engine::{Engine, Hold, OpenSession, Won};
use crate::error::Result;
use crate::hold::{End, HoldState, Lost, Reason};
use crate::key::LockKey;
use crate::mode::Mode;
use crate::token::FencingToken;

/// A lock that is held. Dropping it releases the lock in the background; [`Guard::release`] also says how that went.
///
/// Dropping works on any thread, outside a runtime too: it neither blocks nor spawns nor panics.
#[must_use = "a guard that is dropped at once releases the lock at once"]
pub struct Guard {
    session: Arc<OpenSession>,
    held: Held,
    grant: Grant,
    /// Keeps the engine at work when its client is gone. Dropped last: the release is handed over before.
    _engine: Arc<Engine>,
}

impl Guard {
    pub(super) fn new(engine: Arc<Engine>, key: LockKey, won: Won) -> Guard {
        let Won { session, hold, proof } = won;
        let info = &engine.core().info;
        let grant = Grant::new(info.scheme, session.id(), hold.claim().clone(), hold.token(), proof);
        Guard { held: Held { key, hold }, session, grant, _engine: engine }
    }

    /// A handle that looks at this hold and does not own it.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The lock's name.
    pub fn key(&self) -> &LockKey {
        self.held.key()
    }

    /// In which way it is held.
    pub fn mode(&self) -> Mode {
        self.held.mode()
    }

    /// The token, fixed at the grant. Pass it along with every write that the lock protects.
    pub fn token(&self) -> FencingToken {
        self.held.token()
    }

    /// How it stands at this instant, by the local clock: no round trip.
    pub fn state(&self) -> HoldState {
        self.held.state()
    }

    /// What the store granted: for a store's own extras.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// As [`Held::time_left`].
    pub fn time_left(&self) -> Duration {
        self.held.time_left()
    }

    /// As [`Held::is_wanted`].
    pub fn is_wanted(&self) -> bool {
        self.held.is_wanted()
    }

    /// As [`Held::ending`].
    pub fn ending(&self) -> Ending {
        self.held.ending()
    }

    /// As [`Held::lost`].
    pub async fn lost(&self) -> Reason {
        self.held.lost().await
    }

    /// As [`Held::changed`].
    pub async fn changed(&self, from: HoldState) -> HoldState {
        self.held.changed(from).await
    }

    /// As [`Held::extended`].
    pub async fn extended(&self, beyond: BootTime) -> HoldState {
        self.held.extended(beyond).await
    }

    /// As [`Held::run`].
    ///
    /// # Errors
    /// [`Lost`], when the lock was lost before the work was done.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        self.held.run(work).await
    }

    /// Gives the lock back, and says how the hold ended: `Lost` if that had happened before.
    ///
    /// # Errors
    /// When no answer came within the client's `call_timeout`. The engine goes on until the store has answered or the
    /// TTL has ended; there is nothing to repeat.
    ///
    /// # Cancel Safety
    /// Dropping the future changes nothing: the release goes on.
    pub async fn release(self) -> Result<End> {
        self.session.release(&self.held.hold).await
    }
}

impl Drop for Guard {
    /// After `release` there is nothing left to do: the hold has ended or is being released.
    fn drop(&mut self) {
        self.session.release_dropped(&self.held.hold);
    }
}

#[async_trait]
impl LockGuard for Guard {
    fn key(&self) -> &LockKey {
        Guard::key(self)
    }

    fn mode(&self) -> Mode {
        Guard::mode(self)
    }

    fn token(&self) -> FencingToken {
        Guard::token(self)
    }

    fn state(&self) -> HoldState {
        Guard::state(self)
    }

    fn ending(&self) -> Ending {
        Guard::ending(self)
    }

    fn grant(&self) -> &Grant {
        Guard::grant(self)
    }

    async fn release(self: Box<Self>) -> Result<End> {
        Guard::release(*self).await
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.held).finish()
    }
}

/// A handle that looks at a hold and does not own it: for the work that is done under the lock.
#[derive(Clone)]
pub struct Held {
    key: LockKey,
    hold: Arc<Hold>,
}

impl Held {
    /// The lock's name.
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// In which way it is held.
    pub fn mode(&self) -> Mode {
        self.hold.mode()
    }

    /// The token, fixed at the grant. Pass it along with every write that the lock protects.
    pub fn token(&self) -> FencingToken {
        self.hold.token()
    }

    /// How it stands at this instant, by the local clock: no round trip.
    pub fn state(&self) -> HoldState {
        self.hold.state()
    }

    /// For how long it is still surely held, if nothing more is heard from the store.
    pub fn time_left(&self) -> Duration {
        match self.hold.state() {
            HoldState::Held { until } | HoldState::AtRisk { until } => {
                until.since(self.hold.lease().clock().boot())
            }
            HoldState::Ended(_) => Duration::ZERO,
        }
    }

    /// Whether the store has said that somebody waits for it. A hint: it stays true when that one has gone.
    pub fn is_wanted(&self) -> bool {
        self.hold.is_wanted()
    }

    /// Resolves when the hold ends, to how it ended; at once if that happened earlier. It outlives guard and handle.
    pub fn ending(&self) -> Ending {
        Box::pin(self.hold.ending())
    }

    /// Resolves when the lock is lost, and only then: never after a release.
    pub async fn lost(&self) -> Reason {
        match self.hold.ending().await {
            End::Lost(reason) => reason,
            End::Released => std::future::pending().await,
        }
    }

    /// Resolves when the hold becomes another kind of state than this one: `AtRisk`, `Held` again, `Ended`.
    ///
    /// ```
    /// # use lock_core::{Guard, HoldState};
    /// # async fn watch(guard: Guard) {
    /// let mut state = guard.state();
    /// while state.is_held() {
    ///     state = guard.changed(state).await;
    ///     println!("{}: {state:?}", guard.key());
    /// }
    /// # }
    /// ```
    pub async fn changed(&self, from: HoldState) -> HoldState {
        self.hold.changed(from).await
    }

    /// Resolves when it is surely held for longer than until this instant, or has ended: for whoever passes the deadline
    /// on to somebody else, as to another process that does the work.
    ///
    /// ```
    /// # use lock_core::{Guard, HoldState};
    /// # async fn pass_on(guard: Guard, mut tell: impl FnMut(u64)) {
    /// let mut state = guard.state();
    /// while let HoldState::Held { until } | HoldState::AtRisk { until } = state {
    ///     tell(until.as_nanos());
    ///     state = guard.extended(until).await;
    /// }
    /// # }
    /// ```
    pub async fn extended(&self, beyond: BootTime) -> HoldState {
        self.hold.extended(beyond).await
    }

    /// Runs work under the lock, and drops it *before* the lease can end.
    ///
    /// The lease is looked at before every poll of the work, so that a thread that was blocked, or a machine that
    /// slept, past its end does not go on; and after the last one, so that a result that came too late is not taken for
    /// one that came in time.
    ///
    /// # Errors
    /// [`Lost`], when the lock was lost before the work was done.
    ///
    /// # Cancel Safety
    /// Dropping the future drops the work; the lock stays held.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        let mut ending = pin!(self.hold.ending());
        let mut work = pin!(work);
        poll_fn(|context| {
            if let HoldState::Ended(end) = self.state() {
                return Poll::Ready(Err(lost(end)));
            }
            if self.hold.is_leaving() {
                return Poll::Ready(Err(lost(End::Released)));
            }
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(match self.state() {
                    HoldState::Ended(End::Lost(reason)) => Err(Lost(reason)),
                    _ => Ok(done),
                });
            }
            ending.as_mut().poll(context).map(|end| Err(lost(end)))
        })
        .await
    }
}

/// Work that outlives a release by its own owner has lost its lock as well.
fn lost(end: End) -> Lost {
    match end {
        End::Lost(reason) => Lost(reason),
        End::Released => Lost(Reason::Released),
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Held");
        shown.field("key", &self.key).field("mode", &self.mode()).field("token", &self.token());
        shown.field("state", &self.state()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use super::*;
    use crate::clock::{Clock, VirtualClock};
    use crate::{LockClient, MemoryBackend};

    /// Lets time pass, timer by timer, until a future is ready.
    async fn pass_until<T>(clock: &VirtualClock, mut future: Pin<&mut impl Future<Output = T>>) -> T {
        loop {
            for _ in 0..20 {
                let ready = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
                if let Poll::Ready(value) = ready {
                    return value;
                }
                tokio::task::yield_now().await;
            }
            let next = clock.next_timer().expect("a session that is kept has a timer");
            clock.advance(next.since(clock.boot()));
        }
    }

    #[tokio::test]
    async fn every_renewal_extends_a_hold_and_its_end_is_told() {
        let clock = VirtualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let backend = MemoryBackend::with_clock(shared.clone());
        let client = LockClient::builder(backend).clock(shared).build().unwrap();
        let guard = client.mutex("k").unwrap().acquire().await.unwrap();
        let mut known = clock.boot();
        for _ in 0..5 {
            let HoldState::Held { until } = pass_until(&clock, pin!(guard.extended(known))).await else {
                panic!("it is renewed in time")
            };
            assert!(until > known && until > clock.boot());
            known = until;
        }
        let held = guard.held();
        let mut extended = pin!(held.extended(known));
        assert!(poll_fn(|context| Poll::Ready(extended.as_mut().poll(context))).await.is_pending());
        guard.release().await.unwrap();
        assert_eq!(extended.await, HoldState::Ended(End::Released));
    }
}
