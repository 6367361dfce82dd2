//! Waiting for a turn: told by a watch, or here, behind others of the same session.

use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::GetOptions;
use lock_core::{Busy, Claim, Claimed, Event, Result, Ticket};

use super::Shared;
use super::claiming::{Looked, busy};
use crate::ahead::{Ahead, Left};
use crate::claim::{self, Asked};
use crate::names;
use crate::place::Stands;
use crate::queue::{Obstacle, Watched};
use crate::watch::{News, Range, Tell};

/// Whoever is the first that waits asks again after so long: a watch that began while something was written elsewhere may be
/// served up to a tenth of a second late.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// After so long he tells the holders that he waits.
const PATIENCE: Duration = Duration::from_millis(500);
/// And again after so long each further time.
const LATER_LOOKS: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) async fn waits(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        place: usize,
        looked: Looked,
    ) -> Result<Claimed> {
        let Looked { seen, line } = looked;
        let queue = &seen.queue;
        let (ticket, own, now) = (asked.claim.ticket, &queue.entries()[place], self.now());
        let is_first = queue.holders() == place;
        let obstacle = queue.obstacle(place, &asked.lock);
        let watched = obstacle.watched.clone();
        let is_first_for = self.of(ticket, |place| {
            place.stands = Stands::Waits(own.revision);
            place.first_since = is_first.then(|| place.first_since.unwrap_or(now));
            place.first_since.map(|since| now.since(since))
        });
        let is_overtaken = self
            .of(ticket, |place| {
                let ahead = place.ahead.as_ref().filter(|ahead| ahead.is_for(watched.name()));
                ahead.map(|ahead| ahead.look(obstacle.clone(), seen.revision))
            })
            .flatten();
        if is_overtaken.is_none() {
            let left = Left::new(obstacle, seen.revision);
            let tell = self.tell(ticket, own.revision, left.clone());
            let (name, is_prefix) = (watched.name().to_owned(), matches!(watched, Watched::All(_)));
            let watch = line.watch(Range { name: name.clone(), is_prefix, only_gone: true }, tell)?;
            self.of(ticket, |place| place.ahead = Some(Ahead::new(name, left, watch)));
        }
        let recheck_in = match is_first_for.flatten() {
            _ if is_overtaken == Some(true) => Some(Duration::ZERO),
            Some(time) if time >= PATIENCE => {
                self.tell_holders(&asked.claim.key, queue).await;
                Some(LATER_LOOKS)
            }
            Some(time) if time >= FIRST_LOOK => Some(PATIENCE.saturating_sub(time)),
            Some(time) => Some(FIRST_LOOK.saturating_sub(time)),
            None => None,
        };
        Ok(Claimed::Queued { recheck_in, busy: busy(queue) })
    }

    /// What the watch of a waiting claim does with its news. It does not keep the session.
    fn tell(self: &Arc<Shared>, ticket: Ticket, own: i64, left: Arc<Left>) -> Tell {
        let this = Arc::downgrade(self);
        Arc::new(move |news| {
            let Some(this) = Weak::upgrade(&this) else { return };
            match news {
                News::Gone { name } => {
                    if let Some(obstacle) = left.gone(name) {
                        this.is_out_of_the_way(ticket, own, &obstacle);
                    }
                }
                News::Begun { revision } if !left.begun(revision) => {}
                News::Begun { .. } | News::Written { .. } | News::Broken => {
                    this.sink.send(Event::Recheck(ticket));
                }
            }
        })
    }

    /// What was in the way of a claim that was made at this revision has gone.
    ///
    /// Invariant: it holds by that alone only if nothing else can be before it. A claim cannot appear before another one, so it
    /// is enough to know of each that was there that it has gone.
    fn is_out_of_the_way(&self, ticket: Ticket, revision: i64, obstacle: &Obstacle) {
        let name = {
            let mut places = self.places();
            let Some(place) = places.of(ticket).filter(|place| place.stands == Stands::Waits(revision))
            else {
                return;
            };
            let (key, slot) = (place.key.clone(), place.slot);
            let is_next = obstacle.is_only || places.is_clear_before(&key, obstacle.at);
            (obstacle.grants && is_next).then(|| {
                places.holds(ticket, revision, self.now());
                names::claim(&self.names.lock(&key), self.lease, slot)
            })
        };
        let granted = name.and_then(|name| self.grant(name, revision).ok());
        self.sink.send(match granted {
            Some((token, proof)) => Event::Granted { ticket, token, proof },
            None => Event::Recheck(ticket),
        });
    }

    /// So many claims of this session are in the lock's queue that this one is not sent.
    pub(super) async fn waits_here(&self, claim: &Claim) -> Result<Claimed> {
        if claim.wait {
            return Ok(Claimed::Queued { recheck_in: None, busy: Busy::new() });
        }
        let (lock, look) = (self.names.lock(&claim.key), GetOptions::new().with_prefix());
        let all = self.link.get(lock, look).await?;
        Ok(Claimed::Busy(busy(&claim::queue(all.kvs())?)))
    }
}
