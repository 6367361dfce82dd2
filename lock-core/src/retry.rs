//! [`RetryPolicy`]: how transport errors are retried. Waiting for a busy lock is no error and not retried here.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How calls that failed on the way to the store are sent again: exponential backoff with jitter.
///
/// Only for transport errors. Each try has the client's `call_timeout` of its own.
///
/// ```
/// use std::time::Duration;
/// use lock_core::RetryPolicy;
///
/// let patient = RetryPolicy::default().give_up_after(Duration::from_secs(120));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    base: Duration,
    max: Duration,
    give_up_after: Duration,
}

impl Default for RetryPolicy {
    /// 20 ms, doubling up to 2 s, given up after 30 s.
    fn default() -> RetryPolicy {
        RetryPolicy {
            base: Duration::from_millis(20),
            max: Duration::from_secs(2),
            give_up_after: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    const SHORTEST: Duration = Duration::from_millis(1);

    /// Never retries.
    pub fn none() -> RetryPolicy {
        RetryPolicy { give_up_after: Duration::ZERO, ..RetryPolicy::default() }
    }

    /// The first pause, at least a millisecond; each further one is twice as long.
    #[must_use]
    pub fn base(mut self, base: Duration) -> RetryPolicy {
        self.base = base;
        self
    }

    /// The longest pause.
    #[must_use]
    pub fn max(mut self, max: Duration) -> RetryPolicy {
        self.max = max;
        self
    }

    /// For how long after the first try another one may begin.
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> RetryPolicy {
        self.give_up_after = time;
        self
    }

    /// The pauses, without end; jitter adds up to as much again.
    pub(crate) fn pauses(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        ExponentialBuilder::default()
            // Without a pause a store that fails at once would be asked without end, on a thread that others need.
            .with_min_delay(self.base.max(Self::SHORTEST))
            .with_max_delay(self.max.max(Self::SHORTEST))
            .without_max_times()
            .with_jitter()
            .build()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.give_up_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_pause() {
        let policy = RetryPolicy::default().base(Duration::ZERO).max(Duration::ZERO);
        assert!(policy.pauses().take(100).all(|pause| pause >= RetryPolicy::SHORTEST));
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_never_end() {
        let policy = RetryPolicy::default();
        let pauses: Vec<_> = policy.pauses().take(100).collect();
        assert_eq!(pauses.len(), 100);
        assert!(pauses[0] >= policy.base);
        assert!(pauses.iter().all(|&pause| pause <= policy.max * 2));
        assert!(pauses[50] >= policy.max);
    }
}
