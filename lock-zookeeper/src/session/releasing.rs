//! Giving back a hold, or a place in the queue.

use lock_core::{Certainty, ClaimRef, Released, Result, Ticket};

use super::Shared;
use super::claiming::look;
use crate::wire::delete;

impl Shared {
    pub(super) async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let ticket = claim.ticket;
        let (is_here, may_arrive) = {
            let mut places = self.places();
            places.gives_back(ticket);
            (places.of(ticket).is_some(), places.may_arrive(ticket))
        };
        if !is_here {
            return self.is_given_up(claim, certainty).await;
        }
        let mut found = self.path_of(ticket).into_iter().collect::<Vec<_>>();
        if may_arrive {
            // No copy can take effect behind this; those that have can be seen.
            self.beat_all().await?;
            found = self.own(&self.names.lock(&claim.key), ticket).await?;
        }
        let mut deleted = false;
        for path in found {
            deleted |= self.delete(&path).await?;
        }
        self.waits_no_more(ticket);
        let next = {
            let mut places = self.places();
            let next = places.leave(ticket);
            places.give_up(claim, certainty);
            next
        };
        self.tell_next(next);
        Ok(if deleted { Released::Done } else { Released::Gone })
    }

    /// It was never sent, has been given back before, or is one that this session has forgotten and the store has not.
    async fn is_given_up(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let (gave_up, next) = {
            let mut places = self.places();
            (places.give_up(claim, certainty), places.next(&claim.key))
        };
        self.tell_next(next);
        if gave_up {
            return Ok(Released::Done);
        }
        if certainty == Certainty::MaybeInFlight {
            self.beat_all().await?;
        }
        let mut deleted = false;
        for path in self.own(&self.names.lock(&claim.key), claim.ticket).await? {
            deleted |= self.delete(&path).await?;
        }
        Ok(if deleted { Released::Done } else { Released::Gone })
    }

    /// The paths of what there is of a claim of this session.
    pub(super) async fn own(&self, lock: &str, ticket: Ticket) -> Result<Vec<String>> {
        let queue = self.wire.ask(|client| async move { look(&client, lock).await }).await?;
        let own = queue.entries().iter().filter(|entry| entry.session == self.id && entry.ticket == ticket);
        Ok(own.map(|entry| format!("{lock}/{}", entry.name)).collect())
    }

    /// As [`delete`].
    pub(super) async fn delete(&self, path: &str) -> Result<bool> {
        self.wire.ask(|client| async move { delete(&client, path).await }).await
    }
}
