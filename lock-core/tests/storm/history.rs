//! [`History`]: what the guards claimed, on the one clock; and whether that can have been.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{
    BootTime, Clock, End, FencingToken, Guard, Held, HoldState, LockKey, Reason, SessionId, VirtualClock,
};

use crate::server::Server;

/// The store's clock counts these.
const TICK: Duration = Duration::from_micros(1);

/// One grant, as its owner knew it.
#[derive(Clone)]
struct Span {
    key: LockKey,
    token: FencingToken,
    session: Option<SessionId>,
    weight: u32,
    capacity: u32,
    invoked: BootTime,
    from: BootTime,
    /// Since when its owner no longer relies on it.
    given_back: Option<BootTime>,
    /// When `state()` first said that it was over; for a detached hold, its instant.
    ended: Option<BootTime>,
    /// The key stays taken until then, unless the store breaks the grant.
    at_least: BootTime,
    held: Option<Held>,
    /// `ending()` has resolved.
    told: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(crate) struct History {
    clock: VirtualClock,
    server: Server,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// A grant in the history.
#[derive(Clone, Copy)]
pub(crate) struct Entry(usize);

impl History {
    pub(crate) fn new(clock: &VirtualClock, server: &Server) -> History {
        History { clock: clock.clone(), server: server.clone(), spans: Arc::default() }
    }

    /// A guard was won by a call that began at `invoked`.
    pub(crate) fn won(
        &self,
        guard: &Guard,
        (weight, capacity): (u32, u32),
        invoked: BootTime,
        at_least: Duration,
    ) -> Entry {
        let told = Arc::new(AtomicBool::new(false));
        let (ending, resolved) = (guard.ending(), told.clone());
        tokio::spawn(async move {
            ending.await;
            resolved.store(true, Ordering::Relaxed);
        });
        self.add(Span {
            key: guard.key().clone(),
            token: guard.token(),
            session: Some(guard.grant().session),
            weight,
            capacity,
            invoked,
            from: self.clock.boot(),
            given_back: None,
            ended: None,
            at_least: (invoked + at_least) - TICK,
            held: Some(guard.held()),
            told,
        })
    }

    /// A detached hold was won: it is sure until `invoked` + its time.
    pub(crate) fn detached(
        &self,
        key: &LockKey,
        token: FencingToken,
        invoked: BootTime,
        time: Duration,
    ) -> Entry {
        self.add(Span {
            key: key.clone(),
            token,
            session: None,
            weight: 1,
            capacity: 1,
            invoked,
            from: self.clock.boot(),
            given_back: None,
            ended: Some(invoked + time - TICK),
            at_least: invoked,
            held: None,
            told: Arc::default(),
        })
    }

    /// Its owner gives it back now.
    pub(crate) fn gives_back(&self, Entry(index): Entry) {
        let now = self.clock.boot();
        self.spans()[index].given_back.get_or_insert(now);
    }

    fn add(&self, span: Span) -> Entry {
        let mut spans = self.spans();
        spans.push(span);
        Entry(spans.len() - 1)
    }

    /// Looks at every guard. To be called whenever nothing has anything left to do at this instant.
    pub(crate) fn observe(&self) {
        let now = self.clock.boot();
        let mut spans = self.spans();
        for span in spans.iter_mut() {
            let Some(held) = &span.held else { continue };
            let HoldState::Ended(end) = held.state() else { continue };
            span.ended.get_or_insert(now);
            if !span.told.load(Ordering::Relaxed) {
                self.server.violation(&format!(
                    "{} ({}): state() says {end:?}, and ending() has not resolved",
                    span.key, span.token
                ));
            }
            if let (End::Lost(Reason::Expired), Some(session)) = (end, span.session) {
                self.server.abandoned(session);
            }
            span.held = None;
        }
    }

    /// Nobody holds anything any more.
    pub(crate) fn is_over(&self) -> bool {
        self.spans().iter().all(|span| span.held.is_none())
    }

    pub(crate) fn len(&self) -> usize {
        self.spans().len()
    }

    /// What cannot have been.
    pub(crate) fn faults(&self) -> Vec<String> {
        let spans = self.spans().clone();
        let mut faults = self.overlaps(&spans);
        faults.extend(token_faults(&spans));
        faults.extend(self.untold_losses(&spans));
        faults
    }

    /// The sweep: at each beginning, the weights of all that are claimed fit the capacity.
    fn overlaps(&self, spans: &[Span]) -> Vec<String> {
        let mut faults = Vec::new();
        let ends: Vec<BootTime> = spans.iter().map(|span| self.sure_until(span)).collect();
        for (index, span) in spans.iter().enumerate() {
            let beside: Vec<usize> = (0..spans.len())
                .filter(|&other| {
                    let same = other != index && spans[other].key == span.key;
                    // Of two that begin together, the later one in the history meets the earlier.
                    let before = (spans[other].from, other) < (span.from, index);
                    same && before && ends[other] > span.from && ends[index] > span.from
                })
                .collect();
            let sum: u64 = beside.iter().map(|&other| u64::from(spans[other].weight)).sum();
            if sum + u64::from(span.weight) > u64::from(span.capacity) {
                let others: Vec<_> = beside
                    .iter()
                    .map(|&other| (spans[other].token, spans[other].from, ends[other]))
                    .collect();
                faults.push(format!(
                    "{}: {} is held from {:?} to {:?} beside {others:?}",
                    span.key, span.token, span.from, ends[index]
                ));
            }
        }
        faults
    }

    /// Until when nobody else may hold what this one holds.
    fn sure_until(&self, span: &Span) -> BootTime {
        let never = BootTime::from_nanos(u64::MAX);
        let claimed = span.given_back.unwrap_or(never).min(span.ended.unwrap_or(never)).max(span.at_least);
        self.server.broken_at(&span.key, span.token).map_or(claimed, |broken| claimed.min(broken))
    }

    /// A grant that the store broke is not claimed for longer than a TTL after that.
    fn untold_losses(&self, spans: &[Span]) -> Vec<String> {
        let bound = self.server.longest_ttl() + crate::weather::SHORT * 4;
        let mut faults = Vec::new();
        for span in spans.iter().filter(|span| span.session.is_some()) {
            let Some(broken) = self.server.broken_at(&span.key, span.token) else { continue };
            let known = [span.given_back, span.ended].into_iter().flatten().min();
            if self.server.tells_in_time() && known.is_none_or(|known| known > broken.max(span.from) + bound)
            {
                faults.push(format!(
                    "{}: {} was broken by the store at {broken:?}, and its guard heard of it at {known:?}",
                    span.key, span.token
                ));
            }
        }
        faults
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of a key are unique, and rise from every grant to every one that was asked for after it.
fn token_faults(spans: &[Span]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        for other in spans[..index].iter().filter(|other| other.key == span.key) {
            let (earlier, later) = if other.from <= span.invoked { (other, span) } else { (span, other) };
            if earlier.from <= later.invoked && earlier.token >= later.token {
                faults.push(format!(
                    "{}: {} was granted by {:?}, {} was asked for at {:?}",
                    span.key, earlier.token, earlier.from, later.token, later.invoked
                ));
            } else if earlier.token == later.token {
                faults.push(format!("{}: {} was granted twice", span.key, span.token));
            }
        }
    }
    faults
}
