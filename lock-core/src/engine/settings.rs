//! What a client's engine goes by.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::holder::HolderInfo;
use crate::key::Prefix;
use crate::options::AcquireOptions;
use crate::retry::RetryPolicy;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) prefix: Option<Prefix>,
    pub(crate) info: HolderInfo,
    pub(crate) defaults: AcquireOptions,
}

impl Settings {
    pub(crate) const SHORTEST_TTL: Duration = Duration::from_millis(100);
    pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

    pub(crate) fn check(&self) -> Result<()> {
        if self.ttl < Self::SHORTEST_TTL || self.ttl > Self::LONGEST_TTL {
            return Err(Error::invalid(format!("a TTL is 100ms to 24h, not {:?}", self.ttl)));
        }
        if self.call_timeout.is_zero() {
            return Err(Error::invalid("call_timeout is zero: no call could ever be answered in time"));
        }
        self.defaults.check()
    }
}

/// What is taken off a TTL so that a holder stops before the store can grant to another: 1 % and at least 2 ms, or
/// what the store asks for, but never more than a quarter.
pub(crate) fn margin(ttl: Duration, asked: Duration) -> Duration {
    (ttl / 100).max(Duration::from_millis(2)).max(asked).min(ttl / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins() {
        let (ms, none) = (Duration::from_millis, Duration::ZERO);
        assert_eq!(margin(ms(10_000), none), ms(100));
        assert_eq!(margin(ms(100), none), ms(2));
        assert_eq!(margin(ms(10_000), ms(2_000)), ms(2_000));
        assert_eq!(margin(ms(4_000), ms(2_000)), ms(1_000));
    }
}
