//! The local life of a session: until when what it holds is surely its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::settings::margin;
use crate::clock::{BootTime, Clock};
use crate::hold::Reason;

/// Valid until *the sending* of the last acknowledged renewal (or open) + TTL − margin.
///
/// Nothing is derived from a reply's arrival: a slow reply shortens what is left of it. Acknowledgements that arrive
/// out of order take the maximum. Once over it stays over: a late acknowledgement changes nothing, for the store may
/// have granted to others since.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Arc<dyn Clock>,
    /// Asked for by the store.
    margin: AtomicU64,
    ttl: AtomicU64,
    deadline: AtomicU64,
    overdue: AtomicU64,
    over: OnceLock<Reason>,
    renewed: Notify,
}

impl Lease {
    pub(super) fn new(clock: Arc<dyn Clock>, ttl: Duration) -> Lease {
        Lease {
            clock,
            margin: AtomicU64::new(0),
            ttl: AtomicU64::new(nanos(ttl)),
            deadline: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
            over: OnceLock::new(),
            renewed: Notify::new(),
        }
    }

    /// The store put these in force.
    pub(super) fn adopt(&self, ttl: Duration, margin: Duration) {
        self.ttl.store(nanos(ttl), Ordering::Relaxed);
        self.margin.store(nanos(margin), Ordering::Relaxed);
    }

    /// The store changed the TTL with a renewal that was sent at this instant. A shorter one shortens what was promised
    /// under the longer one: the store counts from this renewal now.
    pub(super) fn adopt_ttl(&self, ttl: Duration, sent: BootTime) {
        let before = self.ttl.swap(nanos(ttl), Ordering::Relaxed);
        if nanos(ttl) < before {
            self.overdue.fetch_min((sent + ttl / 3 * 2).as_nanos(), Ordering::AcqRel);
            self.deadline.fetch_min((sent + self.valid_for(ttl)).as_nanos(), Ordering::AcqRel);
        }
    }

    /// The store acknowledged what was sent at this instant. `false` when that came too late.
    pub(super) fn acknowledge(&self, sent: BootTime) -> bool {
        let ttl = self.ttl();
        let first = self.deadline.load(Ordering::Acquire) == 0;
        if !first && self.over().is_some() {
            return false;
        }
        self.overdue.fetch_max((sent + ttl / 3 * 2).as_nanos(), Ordering::AcqRel);
        self.deadline.fetch_max((sent + self.valid_for(ttl)).as_nanos(), Ordering::AcqRel);
        self.renewed.notify_waiters();
        self.over().is_none()
    }

    fn valid_for(&self, ttl: Duration) -> Duration {
        ttl - margin(ttl, Duration::from_nanos(self.margin.load(Ordering::Relaxed)))
    }

    /// Ends it, unless it is over already; the reason that counts.
    pub(super) fn end(&self, reason: Reason) -> Reason {
        *self.over.get_or_init(|| reason)
    }

    /// Whether it is over at this instant, and why. What was seen once is final.
    pub(crate) fn over(&self) -> Option<Reason> {
        if let Some(&reason) = self.over.get() {
            return Some(reason);
        }
        (self.clock.boot() >= self.deadline()).then(|| self.end(Reason::Expired))
    }

    pub(crate) fn deadline(&self) -> BootTime {
        BootTime::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Two thirds of the TTL after the last acknowledged sending.
    pub(crate) fn overdue(&self) -> BootTime {
        BootTime::from_nanos(self.overdue.load(Ordering::Acquire))
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Notified at each acknowledgement.
    pub(crate) fn renewed(&self) -> &Notify {
        &self.renewed
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    const TTL: Duration = Duration::from_secs(10);

    fn lease(clock: &VirtualClock) -> Lease {
        let lease = Lease::new(Arc::new(clock.clone()), TTL);
        assert!(lease.acknowledge(clock.boot()));
        lease
    }

    #[test]
    fn it_counts_from_the_sending_and_takes_the_maximum() {
        let clock = VirtualClock::new();
        let start = clock.boot();
        let lease = lease(&clock);
        clock.advance(Duration::from_secs(6));
        assert!(lease.acknowledge(start + Duration::from_secs(5)));
        assert!(lease.acknowledge(start + Duration::from_secs(2)), "an older one arrives later");
        assert_eq!(lease.deadline(), start + Duration::from_secs(5) + Duration::from_millis(9_900));
        assert_eq!(lease.overdue(), start + Duration::from_secs(5) + TTL / 3 * 2);
    }

    #[test]
    fn a_late_acknowledgement_changes_nothing() {
        let clock = VirtualClock::new();
        let lease = lease(&clock);
        clock.advance(Duration::from_secs(5));
        let sent = clock.boot();
        clock.advance(Duration::from_millis(4_900));
        assert!(!lease.acknowledge(sent), "sent in time, but acknowledged past the deadline");
        assert_eq!(lease.over(), Some(Reason::Expired));
    }

    #[test]
    fn a_machine_that_slept_sees_the_end() {
        let clock = VirtualClock::new();
        let lease = lease(&clock);
        assert_eq!(lease.over(), None);
        clock.suspend(TTL);
        assert_eq!(lease.over(), Some(Reason::Expired));
    }
}
