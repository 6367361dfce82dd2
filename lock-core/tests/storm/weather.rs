//! [`Weather`]: what goes wrong, and how often; [`Fate`]: what becomes of one call.

use std::time::Duration;

use fastrand::Rng;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Renew,
    Claim,
    Release,
    Close,
    Other,
}

/// Chances are in thousandths.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Answered at the first poll.
    pub(crate) instant: u32,
    /// Otherwise at most this long each way…
    pub(crate) delay: Duration,
    /// Neither more nor less.
    pub(crate) exact: bool,
    /// …save for one in so many thousand, which takes up to `longest`.
    pub(crate) slow: u32,
    pub(crate) longest: Duration,
    /// Fails, and was not applied.
    pub(crate) refused: u32,
    /// Is lost, or its reply, or it arrives long after its caller has given up.
    pub(crate) unknown: u32,
    /// Of those, how many say so; the others never answer.
    pub(crate) says_so: u32,
    pub(crate) event_lost: u32,
    pub(crate) event_twice: u32,
    pub(crate) event_late: u32,
    /// A lost event is owned up to.
    pub(crate) gap: u32,
    /// A release that is acknowledged and forgotten.
    pub(crate) orphan: u32,
    /// The TTL is changed with a renewal.
    pub(crate) ttl: u32,
    /// Renewals are spared, so that a verification comes when it should.
    pub(crate) steady_renewals: bool,
    /// Nothing gets through at all, or requests do and no reply.
    pub(crate) cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Requests,
    Replies,
    /// Not quite: replies take this long.
    Slow(Duration),
}

impl Cut {
    pub(crate) fn fate(self) -> Fate {
        match self {
            Cut::Slow(time) => Fate::Answered(Duration::ZERO, time),
            Cut::Requests => Fate::Unknown(None, None),
            Cut::Replies => Fate::Unknown(Some(Duration::ZERO), None),
        }
    }
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// Applied and answered before the call returns for the first time.
    Instant,
    /// Applied after the first time, answered after the second.
    Answered(Duration, Duration),
    /// Not applied; says so after this time.
    Refused(Duration),
    /// Applied after the first time, or never; fails after the second, or never answers.
    Unknown(Option<Duration>, Option<Duration>),
}

impl Weather {
    /// Nothing goes wrong, and little takes time.
    pub(crate) fn calm() -> Weather {
        Weather {
            instant: 300,
            delay: Duration::from_millis(4),
            exact: false,
            slow: 0,
            longest: Duration::ZERO,
            refused: 0,
            unknown: 0,
            says_so: 0,
            event_lost: 0,
            event_twice: 0,
            event_late: 0,
            gap: 1000,
            orphan: 0,
            ttl: 0,
            steady_renewals: true,
            cut: None,
        }
    }

    /// Every call is answered at its first poll, and every event at once.
    pub(crate) fn still() -> Weather {
        Weather { instant: 1000, ..Weather::calm() }
    }

    pub(crate) fn cut(cut: Cut) -> Weather {
        Weather { cut: Some(cut), steady_renewals: false, ..Weather::still() }
    }

    /// Each way takes this long, for calls and events alike.
    pub(crate) fn slow(delay: Duration) -> Weather {
        Weather { instant: 0, delay, exact: true, ..Weather::calm() }
    }

    /// Any weather, from a breeze to a hurricane.
    pub(crate) fn any(rng: &mut Rng, ttl: Duration) -> Weather {
        let rough = rng.u32(1..8);
        let mut some = |most: u32| if rng.bool() { 0 } else { rng.u32(0..=most * rough / 7) };
        Weather {
            instant: some(900),
            delay: Duration::from_millis(u64::from(some(60)) + 1),
            exact: false,
            slow: some(120),
            longest: ttl * 2,
            refused: some(150),
            unknown: some(250),
            says_so: some(1000),
            event_lost: some(400),
            event_twice: some(300),
            event_late: some(500),
            gap: some(1000),
            orphan: some(150),
            ttl: some(100),
            steady_renewals: some(1) == 0,
            cut: None,
        }
    }

    pub(crate) fn fate(&self, op: Op, rng: &mut Rng) -> Fate {
        if let Some(cut) = self.cut {
            return cut.fate();
        }
        if op == Op::Renew && self.steady_renewals {
            return Fate::Answered(self.any_delay(rng).min(SHORT), self.any_delay(rng).min(SHORT));
        }
        match rng.u32(0..1000) {
            roll if roll < self.refused => Fate::Refused(self.any_delay(rng)),
            roll if roll < self.refused + self.unknown => {
                let says_so = chance(rng, self.says_so);
                let answer = says_so.then(|| self.any_delay(rng));
                let applied = match rng.u8(0..4) {
                    0 => None,
                    // Before the caller hears of it, or long after.
                    1 => Some(Duration::ZERO),
                    2 => Some(self.any_delay(rng)),
                    _ => Some(self.longest.mul_f64(rng.f64())),
                };
                Fate::Unknown(applied, answer)
            }
            _ if chance(rng, self.instant) => Fate::Instant,
            _ => Fate::Answered(self.any_delay(rng), self.any_delay(rng)),
        }
    }

    fn any_delay(&self, rng: &mut Rng) -> Duration {
        if self.exact {
            return self.delay;
        }
        let most = if chance(rng, self.slow) { self.longest } else { self.delay };
        // Whole microseconds, as the store's clock counts.
        Duration::from_micros(rng.u64(0..=u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// After how long an event arrives.
    pub(crate) fn event_delay(&self, rng: &mut Rng) -> Option<Duration> {
        if chance(rng, self.event_late) {
            return Some(self.longest.mul_f64(rng.f64() / 4.0));
        }
        if self.instant == 1000 || rng.bool() { None } else { Some(self.any_delay(rng).min(SHORT)) }
    }
}

/// A renewal that is to be in time.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

pub(crate) fn chance(rng: &mut Rng, thousandths: u32) -> bool {
    rng.u32(0..1000) < thousandths
}
