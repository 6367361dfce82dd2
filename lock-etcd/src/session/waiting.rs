//! Waiting for a turn: told by a watch, or here, behind others of the same session.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_core::{Busy, Claim, Claimed, Event, LockKey, Result, Ticket};

use super::Shared;
use super::claiming::{Looked, busy};
use crate::ahead::{Ahead, Hearing, Told};
use crate::claim::Asked;
use crate::link::Line;
use crate::names;
use crate::place::{Place, Stands};
use crate::queue::{Queue, excluder, obstacle};
use crate::sight;
use crate::watch::Range;

/// Whoever is the first that waits asks again after so long: a watch that began while something was written elsewhere may be
/// served up to a tenth of a second late.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// After so long he tells the holders that he waits.
const PATIENCE: Duration = Duration::from_millis(500);
/// And again after so long each further time.
const LATER_LOOKS: Duration = Duration::from_secs(10);

/// Up to so many sessions that want a lock are all told of each claim that goes; where there are more, each waits for the one
/// before it, and a release tells that one alone.
const FEW: usize = 32;
/// And so many claims before one are counted.
const FEW_CLAIMS: usize = 256;

impl Shared {
    pub(super) async fn waits(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        place: usize,
        looked: Looked,
    ) -> Result<Claimed> {
        let queue = &looked.seen.queue;
        let (ticket, own, now) = (asked.claim.ticket, &queue.entries()[place], self.now());
        let is_first = queue.holders() == place;
        let is_first_for = self.of(ticket, |place| {
            if matches!(place.stands, Stands::Holds(revision, _) if revision == own.revision) {
                return Err(());
            }
            place.stands = Stands::Waits(own.revision);
            place.first_since = is_first.then(|| place.first_since.unwrap_or(now));
            Ok(place.first_since.map(|since| now.since(since)))
        });
        // News have overtaken this look: it holds, and never again waits.
        if is_first_for == Some(Err(())) {
            return self.granted(asked, own.revision);
        }
        let is_first_for = is_first_for.and_then(Result::ok);
        let has_to_look = self.hear(asked, queue, place, &looked)?;
        let recheck_in = match is_first_for.flatten() {
            _ if has_to_look => Some(Duration::ZERO),
            Some(time) if time >= PATIENCE => {
                self.tell_holders(&asked.claim.key, queue).await;
                Some(LATER_LOOKS)
            }
            Some(time) if time >= FIRST_LOOK => Some(PATIENCE.saturating_sub(time)),
            Some(time) => Some(FIRST_LOOK.saturating_sub(time)),
            // Seldom, and the further behind the more seldom: whoever comes to be the first is to notice it.
            None => u32::try_from(place - queue.holders()).ok().map(|waiters| LATER_LOOKS * (waiters + 1)),
        };
        Ok(Claimed::Queued { recheck_in, busy: busy(queue) })
    }

    /// Makes sure that the claim hears of what is in its way. Whether it has to look again at once.
    fn hear(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        queue: &Queue,
        place: usize,
        looked: &Looked,
    ) -> Result<bool> {
        let (ticket, own, at) = (asked.claim.ticket, queue.entries()[place].revision, looked.seen.revision);
        let lone = (queue.sessions() > FEW || place > FEW_CLAIMS).then(|| excluder(queue, place)).flatten();
        let (name, obstacle) = match &lone {
            Some((name, obstacle)) => (name, obstacle.clone()),
            None => (&asked.lock, obstacle(queue, place)),
        };
        let hears = |place: &mut Place| place.ahead.as_ref().is_some_and(|ahead| ahead.hears(name));
        if !self.of(ticket, hears).unwrap_or(true) {
            let hearing = match &lone {
                Some((name, _)) => {
                    let range = Range { name: name.clone(), is_prefix: false, only_gone: true };
                    Arc::new(Hearing::begin(&looked.line, range, self.tell())?)
                }
                None => self.hearing_of_lock(&asked.claim.key, &asked.lock, &looked.line)?,
            };
            self.of(ticket, |place| place.ahead = Some(Ahead::new(hearing, ticket)));
        }
        let waits = |place: &mut Place| Some(place.ahead.as_ref()?.wait(own, obstacle, at));
        // Whoever has no place any more has been given back meanwhile.
        Ok(self.of(ticket, waits).flatten().unwrap_or(false))
    }

    /// The watch over all claims of a lock, which all that wait for it share.
    fn hearing_of_lock(self: &Arc<Shared>, key: &LockKey, lock: &str, line: &Line) -> Result<Arc<Hearing>> {
        let mut hearings = self.hearings();
        if let Some((hearing, is_used)) = hearings.get_mut(key)
            && hearing.is_alive()
        {
            *is_used = true;
            return Ok(hearing.clone());
        }
        let range = Range { name: lock.to_owned(), is_prefix: true, only_gone: true };
        let hearing = Arc::new(Hearing::begin(line, range, self.tell())?);
        hearings.insert(key.clone(), (hearing.clone(), true));
        Ok(hearing)
    }

    /// Ends the watches that nobody has needed since the last time. They are kept for a while, as who has just had a lock often
    /// wants it again.
    pub(super) fn forget_idle_hearings(&self) {
        self.hearings().retain(|_, (hearing, is_used)| {
            hearing.is_alive() && (std::mem::take(is_used) || !hearing.is_idle())
        });
    }

    /// What the watches do with their news. They do not keep the session.
    fn tell(self: &Arc<Shared>) -> impl Fn(Told) + Send + Sync + 'static {
        let this = Arc::downgrade(self);
        move |told| {
            let Some(this) = Weak::upgrade(&this) else { return };
            match told {
                Told::OutOfTheWay { ticket, own, obstacle } => {
                    this.is_out_of_the_way(ticket, own, obstacle.grants);
                }
                Told::AskAgain(ticket) => this.sink.send(Event::Recheck(ticket)),
            }
        }
    }

    /// What was in the way of a claim that was made at this revision has gone. That is the grant, if it `grants`.
    ///
    /// Invariant: a claim cannot appear before another one. So it is enough to know of all that were there that so many have gone.
    fn is_out_of_the_way(&self, ticket: Ticket, revision: i64, grants: bool) {
        let mut next = None;
        let name = {
            let mut places = self.places();
            let Some(place) = places.of(ticket).filter(|place| place.stands == Stands::Waits(revision))
            else {
                return;
            };
            let name = names::claim(&self.names.lock(&place.key), self.lease, place.slot);
            grants.then(|| {
                next = places.holds(ticket, revision, self.now());
                name
            })
        };
        let granted = name.and_then(|name| self.grant(name, revision).ok());
        self.sink.send(match granted {
            Some((token, proof)) => Event::Granted { ticket, token, proof },
            None => Event::Recheck(ticket),
        });
        self.tell_next(next);
    }

    /// So many claims of this session are in the lock's queue that this one is not sent.
    pub(super) async fn waits_here(&self, claim: &Claim) -> Result<Claimed> {
        if claim.wait {
            return Ok(Claimed::Queued { recheck_in: None, busy: Busy::new() });
        }
        Ok(Claimed::Busy(busy(&sight::queue(&self.link, &self.names, &claim.key).await?)))
    }
}
