//! Giving back a hold, or a place in the queue.

use etcd_client::{PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use lock_core::{Certainty, ClaimRef, Effect, Released, Result, Ticket};

use super::Shared;
use crate::claim::{exists, is_made_at};
use crate::lease::{self, Timed};
use crate::names;
use crate::place::{Remains, Stands};

impl Shared {
    pub(super) async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let Some(name) = self.name_of(claim) else { return Ok(self.give_up(claim, certainty)) };
        let given = self.given_back(claim);
        let ends_its_time = given.is_timed && !given.keeps_its_place;
        // The engine is uncertain also of a claim that only looked, or asked again for what it had: here it is known.
        let is_settled = !given.may_arrive;
        let (deleted, remains) = match given.made_at {
            Some(_) if is_settled && !ends_its_time && !given.may_be_deleted => {
                // The shortest way. Sent again it could delete the next claim under this name, and so it is sent once.
                self.of(claim.ticket, |place| place.may_be_deleted = true);
                let answered = self.link.delete(&name).await;
                if answered.as_ref().err().is_some_and(|error| error.took_effect() == Effect::NotApplied) {
                    self.of(claim.ticket, |place| place.may_be_deleted = false);
                }
                (answered?, Remains::Nothing)
            }
            Some(revision) if is_settled => {
                let deletes = deletes(&name, claim.ticket, ends_its_time);
                let txn = Txn::new().when(vec![is_made_at(&name, revision)]).and_then(deletes);
                let remains = if given.may_be_deleted { Remains::Deletion } else { Remains::Nothing };
                (deleted(&self.txn(txn).await?.0), remains)
            }
            _ => {
                let txn = self.withdrawal(&name, deletes(&name, claim.ticket, ends_its_time));
                (deleted(&self.txn(txn).await?.0), Remains::Copy)
            }
        };
        if ends_its_time {
            // Best effort: it ends by itself.
            let _ = lease::revoke(&self.link, Timed::id_of(self.id, claim.ticket)).await;
        }
        self.has_left(claim, remains);
        if certainty == Certainty::MaybeInFlight {
            self.places().withdraw(claim.ticket);
        }
        Ok(if deleted > 0 { Released::Done } else { Released::Gone })
    }

    /// It was never sent, or has gone.
    fn give_up(&self, claim: &ClaimRef, certainty: Certainty) -> Released {
        let (gave_up, next) = {
            let mut places = self.places();
            (places.give_up(claim, certainty), places.next(&claim.key))
        };
        self.tell_next(next);
        if gave_up { Released::Done } else { Released::Gone }
    }

    /// That no copy of a claim under this name takes effect any more.
    pub(super) fn withdrawal(&self, name: &str, deletes: Vec<TxnOp>) -> Txn {
        let lease = PutOptions::new().with_lease(self.lease);
        let mut and_mark = deletes.clone();
        and_mark.push(TxnOp::put(self.names.withdrawn(name), "", Some(lease)));
        // For a session that is over nothing takes effect anyway.
        Txn::new().when(vec![exists(&self.names.session(self.id))]).and_then(and_mark).or_else(deletes)
    }

    fn given_back(&self, claim: &ClaimRef) -> GivenBack {
        let mut places = self.places();
        let may_arrive = places.may_arrive(claim.ticket);
        let Some(place) = places.of(claim.ticket) else { return GivenBack::default() };
        let (made_at, keeps_its_place) = match place.stands {
            Stands::Holds(revision, since) => (Some(revision), self.now().since(since) < place.at_least),
            Stands::Waits(revision) => (Some(revision), false),
            Stands::Unknown => (None, false),
        };
        let (is_timed, may_be_deleted) = (place.is_timed(), place.may_be_deleted);
        GivenBack { made_at, keeps_its_place, is_timed, may_arrive, may_be_deleted }
    }
}

/// What is deleted with a claim: what keeps its place only where that is to end as well.
pub(super) fn deletes(name: &str, ticket: Ticket, ends_its_time: bool) -> Vec<TxnOp> {
    let companion = ends_its_time.then(|| names::companion(name, ticket));
    [Some(name.to_owned()), companion].into_iter().flatten().map(|name| TxnOp::delete(name, None)).collect()
}

/// How many keys the first deletion of a transaction has found.
fn deleted(response: &TxnResponse) -> i64 {
    let deleted = response.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Delete(deleted) => Some(deleted.deleted()),
        _ => None,
    });
    deleted.unwrap_or(0)
}

#[derive(Default)]
struct GivenBack {
    made_at: Option<i64>,
    /// Its time is not over.
    keeps_its_place: bool,
    is_timed: bool,
    may_arrive: bool,
    may_be_deleted: bool,
}
