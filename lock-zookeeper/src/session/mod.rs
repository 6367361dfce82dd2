//! [`ZooKeeperSession`]: one session with the servers, and the claims that live with it.

mod claiming;
mod listening;
mod opening;
mod pulse;
mod releasing;
mod renewing;
mod waiting;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::queue::wishes;
use lock_core::{
    BootTime, Certainty, Claim, ClaimRef, Claimed, Clock, Effect, Error, ErrorKind, Event, EventSink,
    FencingToken, HolderInfo, Proof, Released, Renewal, Result, Session, SessionId, SystemClock, Ticket,
};
use zookeeper_client::Acls;

pub(crate) use self::opening::Sessions;

use self::listening::Listeners;
use self::pulse::Pulse;
use crate::dial::Dial;
use crate::fence::Claimant;
use crate::names::Names;
use crate::place::{Made, Place, Places};
use crate::wire::Wire;

pub(crate) struct ZooKeeperSession(Arc<Shared>);

/// What its calls and its watches share.
struct Shared {
    wire: Wire,
    dial: Arc<Dial>,
    names: Names,
    id: SessionId,
    /// What its own node says of whose it is.
    info: Vec<u8>,
    /// As the servers have granted it.
    ttl: Duration,
    sink: EventSink,
    clock: SystemClock,
    pulse: Pulse,
    places: Mutex<Places>,
    listeners: Listeners,
    /// Whose other sessions are, and how long they live.
    seen: Mutex<HashMap<SessionId, (Duration, Option<HolderInfo>)>>,
    tries: wishes::Tries,
}

#[async_trait]
impl Session for ZooKeeperSession {
    fn id(&self) -> SessionId {
        self.0.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.0.renew(known).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.0.claim(claim).await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.0.release(claim, certainty).await
    }

    async fn close(&self) -> Result<()> {
        self.0.wire.close().await;
        Ok(())
    }
}

impl Shared {
    fn acls(&self) -> Acls<'static> {
        self.dial.acls()
    }

    /// A claim that holds by this node.
    fn grant(&self, made: &Made) -> Result<(FencingToken, Proof)> {
        Ok((token(made.zxid)?, Proof::new(Claimant { path: made.path.clone() })))
    }

    /// Who waits here, and may be sent now.
    fn tell_next(&self, next: Option<Ticket>) {
        next.into_iter().for_each(|ticket| self.sink.send(Event::Recheck(ticket)));
    }

    fn of<T>(&self, ticket: Ticket, look: impl FnOnce(&mut Place) -> T) -> Option<T> {
        self.places().of(ticket).map(look)
    }

    fn now(&self) -> BootTime {
        self.clock.boot()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<SessionId, (Duration, Option<HolderInfo>)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the transaction that made a node. It rises with each one, and with each leader.
pub(crate) fn token(zxid: i64) -> Result<FencingToken> {
    let unusable = || {
        Error::new(ErrorKind::Protocol, format!("{zxid:#x}, which a claim was made at, is no token"))
            .effect(Effect::Unknown)
    };
    let number = u64::try_from(zxid).map_err(|_| unusable())?;
    FencingToken::new(number).map_err(|error| unusable().caused_by(error))
}

impl fmt::Debug for ZooKeeperSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeperSession({} at {:?})", self.0.id, self.0.dial)
    }
}
