//! [`EtcdSession`]: one lease, and the claims that live with it.

mod claiming;
mod releasing;
mod waiting;
mod wishes;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use lock_core::{
    BootTime, Certainty, Claim, ClaimRef, Claimed, Clock, Effect, Error, ErrorKind, Event, EventSink,
    FencingToken, HolderInfo, LockKey, Opened, Proof, Reason, Released, Renewal, Result, Session, SessionId,
    SessionOptions, Standing, SystemClock, Ticket,
};

use self::wishes::Wishes;
use crate::ahead::Hearing;
use crate::claim::{self, Said};
use crate::failure::{is_lease_gone, unexpected};
use crate::fence::Claimant;
use crate::gather::Request;
use crate::lease;
use crate::link::{Line, Link};
use crate::names::{self, Names};
use crate::place::{Place, Places, Remains, Stands};

pub(crate) struct EtcdSession(Arc<Shared>);

/// What its calls and its watches share.
struct Shared {
    link: Arc<Link>,
    names: Names,
    id: SessionId,
    lease: i64,
    info: HolderInfo,
    sink: Arc<EventSink>,
    clock: SystemClock,
    places: Mutex<Places>,
    /// Watches over whole locks, and whether each was used of late.
    hearings: Mutex<HashMap<LockKey, (Arc<Hearing>, bool)>>,
    wishes: Wishes,
}

impl EtcdSession {
    pub(crate) async fn open(
        link: &Arc<Link>,
        names: &Names,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<Opened> {
        let lease = lease::of(options.id);
        let granted = lease::open(link, options.ttl, lease).await?;
        let (name, info) = (names.session(options.id), options.info.encoded());
        let put = PutOptions::new().with_lease(lease);
        link.txn(Txn::new().and_then(vec![TxnOp::put(name, info, Some(put))])).await.map_err(or_lost)?;
        let session = Arc::new(Shared {
            link: link.clone(),
            names: names.clone(),
            id: options.id,
            lease,
            info: options.info.clone(),
            sink: Arc::new(sink),
            clock: SystemClock::new(),
            places: Mutex::default(),
            hearings: Mutex::default(),
            wishes: Wishes::default(),
        });
        link.listen(&session.sink);
        session.listen().await?;
        Ok(Opened::new(Arc::new(EtcdSession(session)), granted))
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn id(&self) -> SessionId {
        self.0.id
    }

    /// The lease is renewed at whoever takes himself for the leader; that the session is still there is read at the word of most
    /// nodes. Both have to be so: a leader that has been cut off goes on answering renewals for a while.
    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let shared = &self.0;
        let names: Vec<Option<String>> = known.iter().map(|claim| shared.name_of(claim)).collect();
        let mut gets = vec![TxnOp::get(shared.names.session(shared.id), None)];
        gets.extend(names.iter().flatten().map(|name| TxnOp::get(name.clone(), None)));
        // The first that fails ends both: when a leader is lost, the other one may hang at its follower for seconds.
        let renewed = async { lease::renew(&shared.link, shared.lease).await.map_err(or_lost) };
        let ((), (looked, _)) = tokio::try_join!(renewed, shared.txn(Txn::new().and_then(gets)))?;
        let seen_at = looked.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut found = found(&looked);
        if found.next().flatten().is_none() {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        shared.forget_idle_hearings();
        if !shared.wishes.are_heard() {
            shared.listen().await?;
        }
        let standings = known.iter().zip(&names).map(|(claim, name)| match name {
            Some(_) => shared.standing(claim, found.next().flatten().as_ref(), seen_at),
            None => shared.standing_here(claim),
        });
        Ok(Renewal::new(standings.collect()))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.0.claim(claim).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.0.release(claim, certainty).await
    }

    async fn close(&self) -> Result<()> {
        lease::revoke(&self.0.link, self.0.lease).await
    }
}

impl Shared {
    /// Of a claim that has a name, as it was found at this revision of the store.
    fn standing(&self, claim: &ClaimRef, found: Option<&KeyValue>, seen_at: i64) -> Standing {
        let entry = match found.map(claim::read) {
            Some(Ok(entry)) if entry.ticket == claim.ticket => entry,
            Some(Ok(_)) | None if self.is_since(claim.ticket, seen_at) => return Standing::Unknown,
            Some(Ok(_)) | None => return Standing::Gone,
            Some(Err(_)) => return Standing::Unknown,
        };
        let (stands, is_heard) = self
            .of(claim.ticket, |place| (place.stands, place.is_heard() && !place.has_become_first()))
            .unwrap_or((Stands::Unknown, false));
        let at_once = Standing::Waits { recheck_in: Some(Duration::ZERO) };
        match stands {
            Stands::Holds(revision, _) if revision != entry.revision => Standing::Gone,
            Stands::Holds(..) => match self.grant(entry.name, entry.revision) {
                Ok((token, proof)) => Standing::Holds { token, proof },
                Err(_) => Standing::Unknown,
            },
            Stands::Waits(_) if is_heard => Standing::Waits { recheck_in: None },
            Stands::Waits(_) | Stands::Unknown => at_once,
        }
    }

    /// Whether a claim was made, or is being made, since the store was at this revision: that it was not there says nothing.
    fn is_since(&self, ticket: Ticket, seen_at: i64) -> bool {
        self.of(ticket, |place| match place.stands {
            Stands::Unknown => true,
            Stands::Waits(revision) | Stands::Holds(revision, _) => revision > seen_at,
        })
        .unwrap_or(false)
    }

    /// Of a claim that had no name when the store was asked.
    fn standing_here(&self, claim: &ClaimRef) -> Standing {
        let mut places = self.places();
        if places.of(claim.ticket).is_some() {
            // It has been sent meanwhile.
            return Standing::Unknown;
        }
        if !places.waits_here(&claim.key, claim.ticket) {
            return Standing::Gone;
        }
        let is_next = places.next(&claim.key) == Some(claim.ticket);
        Standing::Waits { recheck_in: is_next.then_some(Duration::ZERO) }
    }

    fn name_of(&self, claim: &ClaimRef) -> Option<String> {
        let slot = self.places().of(claim.ticket)?.slot;
        Some(names::claim(&self.names.lock(&claim.key), self.lease, slot))
    }

    /// A claim that holds under this name, and was made at this revision.
    fn grant(&self, name: String, revision: i64) -> Result<(FencingToken, Proof)> {
        Ok((token(revision)?, Proof::new(Claimant { name, revision })))
    }

    /// Whoever waits here for this one's place is told.
    fn has_left(&self, claim: &ClaimRef, remains: Remains) {
        let next = {
            let mut places = self.places();
            places.leave(claim.ticket, remains);
            places.next(&claim.key)
        };
        self.tell_next(next);
    }

    /// Who waits here, and may be sent now.
    fn tell_next(&self, next: Option<Ticket>) {
        next.into_iter().for_each(|ticket| self.sink.send(Event::Recheck(ticket)));
    }

    async fn txn(&self, txn: Txn) -> Result<(TxnResponse, Arc<Line>)> {
        self.txn_of_timed(txn).await.map_err(or_lost)
    }

    /// The same for what is written with a lease of its own, and only for a session that is there: a lease that is gone is then not
    /// the session's. Nothing has been done in that case.
    async fn txn_of_timed(&self, txn: Txn) -> Result<(TxnResponse, Arc<Line>)> {
        let answered = self.link.txn(txn).await;
        answered.map_err(|error| if is_lease_gone(&error) { error.effect(Effect::NotApplied) } else { error })
    }

    /// What may go together with others.
    async fn asks(&self, request: impl Fn() -> Request) -> Result<(Said, Arc<Line>)> {
        self.link.claim(request).await.map_err(or_lost)
    }

    fn of<T>(&self, ticket: Ticket, look: impl FnOnce(&mut Place) -> T) -> Option<T> {
        self.places().of(ticket).map(look)
    }

    fn now(&self) -> BootTime {
        self.clock.boot()
    }

    fn hearings(&self) -> MutexGuard<'_, HashMap<LockKey, (Arc<Hearing>, bool)>> {
        self.hearings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn token(revision: i64) -> Result<FencingToken> {
    let number = u64::try_from(revision).map_err(|_| unexpected("a claim"))?;
    FencingToken::new(number).map_err(|error| {
        Error::new(ErrorKind::Protocol, "the store's revision is no token")
            .effect(Effect::Unknown)
            .caused_by(error)
    })
}

fn or_lost(error: Error) -> Error {
    if is_lease_gone(&error) { Error::session_lost(Reason::SessionEnded) } else { error }
}

/// What each look at one key found.
fn found(response: &TxnResponse) -> impl Iterator<Item = Option<KeyValue>> + use<> {
    response.op_responses().into_iter().filter_map(|response| match response {
        TxnOpResponse::Get(get) => Some(get.kvs().first().cloned()),
        _ => None,
    })
}

impl fmt::Debug for EtcdSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdSession({} at {})", self.0.id, self.0.link.endpoint())
    }
}
