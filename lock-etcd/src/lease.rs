//! Leases: a session's, which is renewed, and those that end at a time of their own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveResponse};
use lock_core::{BootTime, Clock, Effect, Error, Reason, Result, SessionId, SystemClock, Ticket};

use crate::failure::{is_lease_gone, is_lease_there, unexpected};
use crate::link::Link;

/// Grants a session's lease, or finds the one that an earlier copy of this call was granted. Returns the TTL in force.
pub(crate) async fn open(link: &Link, ttl: Duration, lease: i64) -> Result<Duration> {
    match grant(link, whole_seconds(ttl), lease).await {
        Err(error) if is_lease_there(&error) => {
            let found = time_to_live(link, lease).await?;
            if found.ttl() <= 0 {
                return Err(Error::session_lost(Reason::SessionEnded));
            }
            seconds(found.granted_ttl())
        }
        granted => granted,
    }
}

/// Renews it. The stream that this takes is dropped with the answer: the next renewal makes its own, and none is left to break
/// unseen.
pub(crate) async fn renew(link: &Link, lease: i64) -> Result<()> {
    link.call(|client| {
        let mut leases = client.lease_client();
        async move { leases.keep_alive(lease).await.map(|_| ()) }
    })
    .await
}

/// Ends it, with all that lives by it. One that has ended is no error.
pub(crate) async fn revoke(link: &Link, lease: i64) -> Result<()> {
    let revoked = link
        .call(|client| {
            let mut leases = client.lease_client();
            async move { leases.revoke(lease).await.map(|_| ()) }
        })
        .await;
    match revoked {
        Err(error) if !is_lease_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// How long it has left at most: the server counts whole seconds, and says how many have not begun to pass.
pub(crate) async fn remaining(link: &Link, lease: i64) -> Result<Option<Duration>> {
    let found = time_to_live(link, lease).await?;
    Ok(match found.ttl() {
        ..0 => None,
        left => Some(seconds(left.saturating_add(1).min(found.granted_ttl().max(1)))?),
    })
}

/// The number of a session's lease: sixty-three of its bits, as good as never used twice.
pub(crate) fn of(id: SessionId) -> i64 {
    number(id.as_u128() as u64)
}

/// A lease for a time that was asked, which nobody renews.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) id: i64,
    lasts: Duration,
    /// It was asked for at this instant, and so began no earlier.
    since: BootTime,
}

impl Timed {
    /// For one claim. Asked for again it is the same one.
    ///
    /// It lasts for up to a second more: a grant comes some time after its lease, and is to last for the whole time itself.
    pub(crate) async fn begin(
        link: &Link,
        session: SessionId,
        ticket: Ticket,
        time: Duration,
    ) -> Result<Timed> {
        let id = Timed::id_of(session, ticket);
        let since = SystemClock::new().boot();
        let whole = whole_seconds(time).saturating_add(1);
        match grant(link, whole, id).await {
            Ok(lasts) => Ok(Timed { id, lasts, since }),
            Err(error) if is_lease_there(&error) => {
                renew(link, id).await?;
                Ok(Timed { id, lasts: seconds(whole)?, since })
            }
            Err(error) => Err(error),
        }
    }

    /// That it lasts for a time from now on, for something that has happened by now.
    pub(crate) async fn last_for(self, link: &Link, time: Duration) -> Result<()> {
        if self.since + self.lasts >= SystemClock::new().boot() + time {
            return Ok(());
        }
        renew(link, self.id).await.map_err(|error| match is_lease_gone(&error) {
            true => Error::unavailable("the time that was asked for was over before the claim was granted")
                .effect(Effect::Unknown)
                .caused_by(error),
            false => error,
        })
    }

    /// Which lease it is. Nobody may be on his way to ask for it when it is revoked: it would be made again.
    pub(crate) fn id_of(session: SessionId, ticket: Ticket) -> i64 {
        let mut hasher = DefaultHasher::new();
        (session, ticket).hash(&mut hasher);
        number(hasher.finish())
    }
}

async fn time_to_live(link: &Link, lease: i64) -> Result<LeaseTimeToLiveResponse> {
    link.call(|client| {
        let mut leases = client.lease_client();
        async move { leases.time_to_live(lease, None).await }
    })
    .await
}

async fn grant(link: &Link, whole: i64, lease: i64) -> Result<Duration> {
    let options = LeaseGrantOptions::new().with_id(lease);
    let granted = link
        .call(|client| {
            let mut leases = client.lease_client();
            async move { leases.grant(whole, Some(options)).await }
        })
        .await?;
    seconds(granted.ttl())
}

fn seconds(number: i64) -> Result<Duration> {
    u64::try_from(number).map(Duration::from_secs).map_err(|_| unexpected("a lease"))
}

fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn number(bits: u64) -> i64 {
    // Zero stands for none.
    i64::try_from((bits & (i64::MAX as u64)).max(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_and_never_shorter() {
        for (time, whole) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (10_000, 10)] {
            assert_eq!(whole_seconds(Duration::from_millis(time)), whole, "{time} ms");
        }
    }

    #[test]
    fn a_lease_has_a_number_above_zero() {
        for id in [0, 1, u128::MAX, 1 << 63, 1 << 64] {
            assert!(of(SessionId::from_u128(id)) > 0, "{id}");
        }
    }
}
