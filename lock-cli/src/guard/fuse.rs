//! [`Fuse`]: when the group is asked to end, and when it is killed. Only arithmetic, so that it can be tested.

use std::time::Duration;

use fencepost::backend::BootTime;

/// Burns towards the deadline; every renewal makes it longer, and nothing stops it once it has begun to end.
#[derive(Clone, Debug)]
pub(super) struct Fuse {
    until: BootTime,
    /// How long before the deadline it asks.
    lead: Duration,
    /// How long before the deadline it kills.
    margin: Duration,
    grace: Duration,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Asked to end; killed at this instant, or before the deadline if that is earlier.
    Ending(BootTime),
    Killed,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Term,
    Kill,
}

impl Fuse {
    /// A fuse that asks a tenth of the TTL before the deadline, or later if less grace is enough. It kills after the grace,
    /// but always before the deadline: killing takes a moment, too.
    pub(super) fn new(until: BootTime, ttl: Duration, grace: Duration) -> Fuse {
        let margin = (ttl / 50).min(Duration::from_millis(100));
        let lead = margin + grace.min((ttl / 10).saturating_sub(margin));
        Fuse { until, lead, margin, grace, stage: Stage::Running }
    }

    /// A later deadline. An earlier one is old news.
    pub(super) fn extend(&mut self, until: BootTime) {
        self.until = self.until.max(until);
    }

    /// Begins the end; false when it has begun before.
    pub(super) fn end(&mut self, now: BootTime) -> bool {
        let first = self.stage == Stage::Running;
        if first {
            self.stage = Stage::Ending(now + self.grace);
        }
        first
    }

    /// Gives up the grace that is left.
    pub(super) fn hurry(&mut self) {
        if let Stage::Ending(kill_at) = &mut self.stage {
            *kill_at = BootTime::ZERO;
        }
    }

    pub(super) fn killed(&mut self) {
        self.stage = Stage::Killed;
    }

    pub(super) fn is_ending(&self) -> bool {
        self.stage != Stage::Running
    }

    pub(super) fn has_killed(&self) -> bool {
        self.stage == Stage::Killed
    }

    /// Whether there is no time left for anything but killing.
    pub(super) fn is_past(&self, now: BootTime) -> bool {
        now >= self.last_moment()
    }

    pub(super) fn due(&self, now: BootTime) -> Option<Due> {
        match self.stage {
            Stage::Running if self.is_past(now) => Some(Due::Kill),
            Stage::Running => (now >= self.until - self.lead).then_some(Due::Term),
            Stage::Ending(kill_at) => (now >= kill_at || self.is_past(now)).then_some(Due::Kill),
            Stage::Killed => None,
        }
    }

    /// When to look again; while something ends, after this pause.
    pub(super) fn next(&self, now: BootTime, look: Duration) -> BootTime {
        match self.stage {
            Stage::Running => self.until - self.lead,
            Stage::Ending(kill_at) => kill_at.min(self.last_moment()).min(now + look),
            Stage::Killed => now + look,
        }
    }

    fn last_moment(&self) -> BootTime {
        self.until - self.margin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootTime = BootTime::from_nanos(1_000_000_000_000);

    fn after(ms: u64) -> BootTime {
        START + Duration::from_millis(ms)
    }

    fn fuse() -> Fuse {
        Fuse::new(after(10_000), Duration::from_secs(10), Duration::from_secs(5))
    }

    #[test]
    fn it_asks_before_the_deadline_and_kills_before_it_too() {
        let mut fuse = fuse();
        assert_eq!(fuse.due(after(8_999)), None);
        assert_eq!(fuse.next(START, Duration::ZERO), after(9_000));
        assert_eq!(fuse.due(after(9_000)), Some(Due::Term));
        assert!(fuse.end(after(9_000)));
        assert_eq!(fuse.due(after(9_899)), None);
        assert_eq!(fuse.due(after(9_900)), Some(Due::Kill), "five seconds of grace would be too late");
    }

    #[test]
    fn a_renewal_moves_everything_and_an_old_one_nothing() {
        let mut fuse = fuse();
        fuse.extend(after(13_000));
        fuse.extend(after(11_000));
        assert_eq!(fuse.due(after(11_999)), None);
        assert_eq!(fuse.due(after(12_000)), Some(Due::Term));
    }

    #[test]
    fn far_from_the_deadline_the_grace_is_whole() {
        let mut fuse = fuse();
        assert!(fuse.end(after(1_000)));
        assert!(!fuse.end(after(2_000)), "asked once");
        assert_eq!(fuse.due(after(5_999)), None);
        assert_eq!(fuse.due(after(6_000)), Some(Due::Kill));
        fuse.killed();
        assert_eq!(fuse.due(after(20_000)), None);
    }

    #[test]
    fn a_renewal_gives_an_ending_group_its_grace_back_and_not_more() {
        let mut fuse = fuse();
        assert!(fuse.end(after(9_000)));
        fuse.extend(after(30_000));
        assert_eq!(fuse.due(after(13_999)), None);
        assert_eq!(fuse.due(after(14_000)), Some(Due::Kill));
    }

    #[test]
    fn past_the_deadline_nobody_is_asked_any_more() {
        assert_eq!(fuse().due(after(60_000)), Some(Due::Kill));
        let mut fuse = fuse();
        assert!(fuse.end(after(1_000)));
        fuse.hurry();
        assert_eq!(fuse.due(after(1_000)), Some(Due::Kill));
    }

    #[test]
    fn without_grace_it_kills_before_the_deadline_too() {
        let fuse = Fuse::new(after(10_000), Duration::from_secs(10), Duration::ZERO);
        assert_eq!(fuse.due(after(9_899)), None);
        assert_eq!(fuse.next(START, Duration::ZERO), after(9_900));
        assert_eq!(fuse.due(after(9_900)), Some(Due::Kill));
    }

    #[test]
    fn a_short_grace_is_whole() {
        let mut fuse = Fuse::new(after(10_000), Duration::from_secs(10), Duration::from_millis(300));
        assert_eq!(fuse.due(after(9_600)), Some(Due::Term));
        assert!(fuse.end(after(9_600)));
        assert_eq!(fuse.due(after(9_899)), None);
        assert_eq!(fuse.due(after(9_900)), Some(Due::Kill));
    }

    #[test]
    fn a_short_lease_leaves_a_moment_to_kill() {
        let fuse = Fuse::new(after(100), Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(fuse.due(after(90)), Some(Due::Term));
        assert_eq!(fuse.due(after(98)), Some(Due::Kill));
    }
}
