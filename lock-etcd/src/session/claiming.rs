//! Asking for a lock, once.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use lock_core::table::Outcome;
use lock_core::{Busy, Claim, Claimed, Effect, Error, Reason, Result, Term};

use super::releasing::deletes;
use super::{Shared, token};
use crate::claim::{Answer, Asked, Said, Seen, is_made_at};
use crate::entry::{self, Entry, Kind};
use crate::failure::unexpected;
use crate::lease::{self, Timed};
use crate::link::Line;
use crate::names;
use crate::place::{Entered, Remains, Stands};
use crate::queue::{Queue, place_of};

/// So often whoever tries is sent behind those that it has seen.
const QUICK: u32 = 3;

/// A look, and the line over which it was made: who waits watches over the same one.
pub(super) struct Looked {
    pub(super) seen: Seen,
    pub(super) line: Arc<Line>,
}

impl Shared {
    pub(super) async fn claim(self: &Arc<Shared>, claim: &Claim) -> Result<Claimed> {
        let time = time_of_its_own(claim.term)?;
        let (entered, next) = {
            let mut places = self.places();
            let is_new = places.of(claim.ticket).is_none();
            let entered = places.enter(claim);
            // Several places may have become free when one of those who wait here was told.
            let next =
                if is_new && matches!(entered, Entered::In(_)) { places.next(&claim.key) } else { None };
            (entered, next)
        };
        self.tell_next(next);
        let slot = match entered {
            Entered::In(slot) => slot,
            Entered::WaitsHere => return self.waits_here(claim).await,
            Entered::Withdrawn => return Err(Outcome::Withdrawn.into_error()),
        };
        let lock = self.names.lock(&claim.key);
        let name = names::claim(&lock, self.lease, slot);
        let mut asked = Asked {
            claim,
            withdrawn: self.names.withdrawn(&name),
            session: self.names.session(self.id),
            name,
            lock,
            value: entry::value(self.id, claim, &self.info),
            id: self.id,
            info: &self.info,
            lease: self.lease,
            timed: None,
            takes_a_place: claim.wait,
        };
        let claimed = self.ask(&mut asked, time).await;
        if !matches!(claimed, Ok(Claimed::Granted { .. } | Claimed::Queued { .. })) {
            self.was_not_made(&asked, &claimed).await;
        }
        // What is in the store is to be released, whatever went wrong after it was made.
        let is_left = !self.is_unknown(&asked);
        claimed.map_err(|error| if is_left { error.effect(Effect::Unknown) } else { error })
    }

    /// Asks until the answer is certain.
    async fn ask(self: &Arc<Shared>, asked: &mut Asked<'_>, time: Option<Duration>) -> Result<Claimed> {
        if !self.is_unknown(asked) {
            let looked = self.look(asked).await?;
            if let Some(place) = place_of(&looked.seen.queue, &asked.name) {
                return self.stands_at(asked, place, looked, time).await;
            }
            // Somebody has ended it. It is made anew.
            self.places().has_gone(asked.claim.ticket);
        }
        if let Some(time) = time {
            asked.timed = Some(Timed::begin(&self.link, self.id, asked.claim.ticket, time).await?);
        }
        let mut answered = self.send(asked, || asked.first()).await?;
        let mut quick = 0..QUICK;
        loop {
            let looked = match answered {
                (Answer::Granted(revision), _) => {
                    if let (Some(timed), Some(time)) = (asked.timed, time) {
                        timed.last_for(&self.link, time).await?;
                    }
                    return self.granted(asked, revision);
                }
                (Answer::Queue(seen), line) => Looked { seen: lives(seen)?, line },
            };
            if let Some(place) = place_of(&looked.seen.queue, &asked.name) {
                return self.stands_at(asked, place, looked, time).await;
            }
            let Seen { queue, revision, .. } = looked.seen;
            if let Some(in_force) = queue.other_capacity(None, asked.claim.permit) {
                return Err(Outcome::CapacityMismatch { in_force }.into_error());
            }
            if asked.takes_a_place {
                return Err(unexpected("a claim that waits"));
            }
            if !queue.has_room_for(asked.claim.permit) {
                self.tell_holders_of_a_try(&asked.claim.key, &queue).await;
                return Ok(Claimed::Busy(busy(&queue)));
            }
            // There is room. Whoever is quicker is looked at again: who has seen room is not told that it is busy. Where others come
            // all the time, only a place among them says whether there is room for this one, too.
            answered = match quick.next() {
                Some(_) => self.send(asked, || asked.behind(revision)).await?,
                None => {
                    asked.takes_a_place = true;
                    self.send(asked, || asked.first()).await?
                }
            };
        }
    }

    /// It is in the queue.
    async fn stands_at(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        place: usize,
        looked: Looked,
        time: Option<Duration>,
    ) -> Result<Claimed> {
        let queue = &looked.seen.queue;
        let entry = &queue.entries()[place];
        if entry.ticket != asked.claim.ticket {
            return Err(
                unexpected("a claim, which another one stands in the place of,").effect(Effect::Unknown)
            );
        }
        if let Some(in_force) = queue.other_capacity(Some(place), asked.claim.permit) {
            self.takes_back(asked, entry.revision).await?;
            return Err(Outcome::CapacityMismatch { in_force }.into_error());
        }
        if !queue.holds(place) {
            if asked.claim.wait {
                return self.waits(asked, place, looked).await;
            }
            // It only tried.
            self.takes_back(asked, entry.revision).await?;
            self.tell_holders_of_a_try(&asked.claim.key, queue).await;
            return Ok(Claimed::Busy(busy(queue)));
        }
        if let Some(time) = time {
            self.begins_its_time(asked, entry, time).await?;
        }
        self.granted(asked, entry.revision)
    }

    /// It has a place that it is not to have.
    async fn takes_back(&self, asked: &Asked<'_>, revision: i64) -> Result<()> {
        let deletes = vec![TxnOp::delete(asked.name.clone(), None)];
        let own = Txn::new().when(vec![is_made_at(&asked.name, revision)]);
        self.txn(own.and_then(deletes)).await?;
        self.places().has_gone(asked.claim.ticket);
        Ok(())
    }

    /// It has come to hold by its place. What is to last for a time of its own is given that now.
    async fn begins_its_time(&self, asked: &Asked<'_>, entry: &Entry, time: Duration) -> Result<()> {
        let has_begun = match entry.kind {
            Kind::Fixed => entry.lease != self.lease,
            _ => self
                .of(asked.claim.ticket, |place| matches!(place.stands, Stands::Holds(..)))
                .unwrap_or(false),
        };
        if has_begun {
            return Ok(());
        }
        let timed = Timed::begin(&self.link, self.id, asked.claim.ticket, time).await?;
        let put = match entry.kind {
            Kind::Fixed => asked.put(timed.id),
            _ => asked.companion(&timed, Some(entry.revision)),
        };
        let txn = Txn::new().when(vec![is_made_at(&entry.name, entry.revision)]).and_then(vec![put]);
        if !self.txn_of_timed(txn).await?.0.succeeded() {
            return Err(
                Error::unavailable("the claim was ended while it was granted").effect(Effect::Unknown)
            );
        }
        timed.last_for(&self.link, time).await
    }

    pub(super) fn granted(&self, asked: &Asked<'_>, revision: i64) -> Result<Claimed> {
        let (token, proof) = self.grant(asked.name.clone(), revision)?;
        let next = self.places().holds(asked.claim.ticket, revision, self.now());
        self.tell_next(next);
        Ok(Claimed::Granted { token, proof })
    }

    /// Neither granted nor queued: what was begun is given up, and its place is free, unless a copy of it may arrive.
    async fn was_not_made(&self, asked: &Asked<'_>, claimed: &Result<Claimed>) {
        let ticket = asked.claim.ticket;
        if !self.is_unknown(asked) {
            return;
        }
        let may_arrive = self.places().may_arrive(ticket);
        if may_arrive {
            // Who is told that it is busy gives nothing back; who has an error does.
            let withdrawal = self.withdrawal(&asked.name, deletes(&asked.name, ticket, true));
            if claimed.is_err() || self.txn(withdrawal).await.is_err() {
                return;
            }
        }
        if asked.timed.is_some() {
            // Best effort: it ends by itself.
            let _ = lease::revoke(&self.link, Timed::id_of(self.id, ticket)).await;
        }
        let remains = if may_arrive { Remains::Copy } else { Remains::Nothing };
        self.has_left(&asked.claim.reference(), remains);
    }

    /// Sends what may make the claim. Without an answer it may still arrive, for as long as the session lives.
    ///
    /// That it was made is noted at once: whatever goes wrong from here on, it is there, and has to be given back.
    async fn send(&self, asked: &Asked<'_>, txn: impl Fn() -> Txn) -> Result<(Answer, Arc<Line>)> {
        let ticket = asked.claim.ticket;
        self.places().sent(ticket);
        let sent = match asked.timed {
            None => self.asks(|| asked.request(txn())).await,
            // The end of a lease of its own would fail others as well.
            Some(_) => self.txn_of_timed(txn()).await.map(|(response, line)| (Said::alone(&response), line)),
        };
        if sent.as_ref().err().is_none_or(|error| error.took_effect() == Effect::NotApplied) {
            self.places().answered(ticket);
        }
        let (said, line) = sent?;
        if let Some(revision) = said.made_at() {
            self.of(ticket, |place| place.stands = Stands::Waits(revision));
        }
        Ok((said.answer()?, line))
    }

    async fn look(&self, asked: &Asked<'_>) -> Result<Looked> {
        let (response, line) = self.txn(asked.look()).await?;
        Ok(Looked { seen: lives(Said::alone(&response).seen()?)?, line })
    }

    fn is_unknown(&self, asked: &Asked<'_>) -> bool {
        self.of(asked.claim.ticket, |place| place.stands == Stands::Unknown).unwrap_or(true)
    }
}

/// For how long it is to hold in any case.
fn time_of_its_own(term: Term) -> Result<Option<Duration>> {
    match term {
        Term::Fixed(time) => Ok(Some(time)),
        Term::Session { at_least } => Ok(Some(at_least).filter(|time| !time.is_zero())),
        other => Err(Error::unsupported(format!("the store in etcd knows no term such as {other:?}"))),
    }
}

/// A look, unless it says that nothing can come of the claim.
fn lives(seen: Seen) -> Result<Seen> {
    if !seen.session_lives {
        return Err(Error::session_lost(Reason::SessionEnded));
    }
    if seen.is_withdrawn {
        return Err(Outcome::Withdrawn.into_error());
    }
    Ok(seen)
}

/// Who is in the way: the first that holds.
pub(super) fn busy(queue: &Queue) -> Busy {
    match queue.entries().first() {
        Some(first) => Busy::new().held_by(first.info.clone()).under(token(first.revision).ok()),
        None => Busy::new(),
    }
}
