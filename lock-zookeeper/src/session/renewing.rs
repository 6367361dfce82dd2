//! Renewing: one write that a majority has to take, and behind it a look at the claims.

use std::time::Duration;

use lock_core::{BootTime, ClaimRef, Clock, Effect, Error, Reason, Renewal, Result, Standing, Ticket};
use zookeeper_client::{Client, Error as Driver, MultiReadResult, Stat};

use super::Shared;
use crate::failure::failed;
use crate::place::{Made, Stands};

/// A renewal that was sent, and what has come of it.
struct Beat {
    number: u64,
    at: BootTime,
    answer: Result<Stat, Driver>,
}

impl Shared {
    /// The answers to pings prove nothing: a server gives them that is cut off from the others. A write is acknowledged by a
    /// majority. It says nothing of the claims' nodes, which are read behind it, over the same connection: so at the same server,
    /// and not before it has done the write itself.
    ///
    /// Invariant: a session is renewed only where its server has heard of it again and again, within half a tick each time, and has
    /// told so. It is the leader that ends sessions, and it does not count writes: what other servers have heard of their clients
    /// they tell it once in half a tick. Is a server cut off behind this write, then the leader has last heard of the session about
    /// half a tick before it at most. The margin is a whole one.
    pub(super) async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        if !self.wire.is_known_to_the_leader() {
            // What the server hears now it has told when that time is over, or it does not reach the leader with the write.
            self.is_heard().await?;
            self.clock.sleep(self.wire.told_within()).await;
        }
        let mades: Vec<_> = known.iter().map(|claim| self.made(claim.ticket)).collect();
        let found = self
            .wire
            .ask(|client| async move {
                let beating = self.send_beat(&client);
                let mut looks = client.new_multi_reader();
                for made in mades.iter().flatten() {
                    looks.add_get_data(&made.path).map_err(failed)?;
                }
                let looking = looks.commit();
                self.has_beaten(beating.await)?;
                let mut found = looking.await.map_err(failed)?.into_iter();
                Ok(mades.into_iter().map(|made| made.map(|made| (found.next(), made))).collect::<Vec<_>>())
            })
            .await?;
        let standings = known.iter().zip(found).map(|(claim, found)| match found {
            Some((found, made)) => self.standing(claim, found, &made),
            None => self.standing_here(claim),
        });
        Ok(Renewal::new(standings.collect()))
    }

    /// Has the version of the session's own node raised. Returns it.
    pub(super) async fn beat(&self) -> Result<i32> {
        self.wire
            .ask(|client| async move {
                let beating = self.send_beat(&client);
                self.has_beaten(beating.await)
            })
            .await
    }

    /// Has it raised until no claim that was sent before can take effect any more.
    pub(super) async fn beat_all(&self) -> Result<()> {
        let highest = self.pulse.lock().highest();
        while self.beat().await? <= highest {}
        Ok(())
    }

    /// Has the server hear of this client.
    pub(super) async fn is_heard(&self) -> Result<()> {
        let own = self.names.session(self.id);
        self.wire.ask(|client| async move { client.check_stat(&own).await.map(drop).map_err(failed) }).await
    }

    /// It is sent before this returns.
    fn send_beat(&self, client: &Client) -> impl Future<Output = Beat> + Send + use<> {
        let (number, at, beating) = {
            let mut pulse = self.pulse.lock();
            let number = pulse.beat();
            (number, self.now(), client.set_data(&self.names.session(self.id), &self.info, None))
        };
        async move { Beat { number, at, answer: beating.await } }
    }

    fn has_beaten(&self, beat: Beat) -> Result<i32> {
        let mut pulse = self.pulse.lock();
        match beat.answer {
            Ok(stat) => {
                pulse.was_acknowledged(beat.number, stat.version, beat.at);
                Ok(stat.version)
            }
            Err(error) => {
                pulse.is_lost();
                Err(or_lost(error))
            }
        }
    }

    fn made(&self, ticket: Ticket) -> Option<Made> {
        self.of(ticket, |place| match &place.stands {
            Stands::Unknown => None,
            Stands::Waits(made) | Stands::Holds(made) => Some(made.clone()),
        })
        .flatten()
    }

    /// Of a claim that was made, as it was found.
    fn standing(&self, claim: &ClaimRef, found: Option<MultiReadResult>, made: &Made) -> Standing {
        let stands = self.of(claim.ticket, |place| (place.stands.clone(), place.watches.is_some()));
        // Of one that has been made anew meanwhile this says nothing, nor of one that could not be read.
        let (Some((Stands::Waits(now) | Stands::Holds(now), _)), Some(found)) = (&stands, found) else {
            return Standing::Unknown;
        };
        match (found, &stands) {
            _ if now != made => Standing::Unknown,
            (MultiReadResult::Error { err: Driver::NoNode }, _) => Standing::Gone,
            (MultiReadResult::Data { .. }, Some((Stands::Holds(_), _))) => match self.grant(made) {
                Ok((token, proof)) => Standing::Holds { token, proof },
                Err(_) => Standing::Unknown,
            },
            (MultiReadResult::Data { .. }, Some((_, is_told))) => {
                Standing::Waits { recheck_in: (!is_told).then_some(Duration::ZERO) }
            }
            _ => Standing::Unknown,
        }
    }

    /// Of a claim that had not been made when the store was asked, as far as is known.
    fn standing_here(&self, claim: &ClaimRef) -> Standing {
        let mut places = self.places();
        if places.of(claim.ticket).is_some() {
            // It has been sent meanwhile, or its answer has not come.
            return Standing::Unknown;
        }
        if !places.waits_here(claim) {
            return Standing::Gone;
        }
        let is_next = places.next(&claim.key) == Some(claim.ticket);
        Standing::Waits { recheck_in: is_next.then_some(Duration::ZERO) }
    }
}

/// Without its own node a session is over.
pub(super) fn or_lost(error: Driver) -> Error {
    match error {
        Driver::NoNode => Error::session_lost(Reason::SessionEnded).effect(Effect::NotApplied),
        error => failed(error),
    }
}
