//! [`EtcdSession`]: one lease, and the claims that live with it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use lock_core::table::Outcome;
use lock_core::{
    Busy, Certainty, Claim, ClaimRef, Claimed, Clock, Effect, Error, ErrorKind, Event, EventSink,
    FencingToken, HolderInfo, LockKey, Opened, Proof, Reason, Released, Renewal, Result, Session, SessionId,
    SessionOptions, Standing, SystemClock, Term, Ticket,
};

use crate::claim::{self, Answer, Asked, exists, is_made_at};
use crate::entry::{Entry, Kind, value};
use crate::failure::{is_lease_gone, is_lease_there, unexpected};
use crate::fence::Claimant;
use crate::link::{Line, Link};
use crate::names::{self, Names};
use crate::place::{Entered, Places, Stands};
use crate::queue::{Obstacle, Queue};
use crate::watch::{News, Range, Tell, Watch};

/// Whoever waits first asks again after so long, and then tells the holders that he waits.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// And after so long each further time.
const LATER_LOOKS: Duration = Duration::from_secs(10);

pub(crate) struct EtcdSession(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    names: Names,
    id: SessionId,
    lease: i64,
    info: HolderInfo,
    sink: Arc<EventSink>,
    clock: SystemClock,
    places: Mutex<Places>,
    /// Where others say that they wait for what this session holds.
    wanted: Mutex<Option<Watch>>,
}

impl EtcdSession {
    pub(crate) async fn open(
        link: &Arc<Link>,
        names: &Names,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<Opened> {
        let lease = lease_of(options.id);
        let granted = grant(link, options.ttl, lease).await?;
        let session = Shared {
            link: link.clone(),
            names: names.clone(),
            id: options.id,
            lease,
            info: options.info.clone(),
            sink: Arc::new(sink),
            clock: SystemClock::new(),
            places: Mutex::default(),
            wanted: Mutex::default(),
        };
        let (name, info) = (names.session(options.id), options.info.encoded());
        let put = link
            .on_line(|line, client| async move {
                let options = PutOptions::new().with_lease(lease);
                let put = client.kv_client().put(name, info, Some(options)).await?;
                Ok((put, line, client))
            })
            .await;
        let (put, line, client) = put.map_err(|error| session.or_lost(error))?;
        let session = Arc::new(session);
        link.listen(&session.sink);
        let from = put.header().ok_or_else(|| unexpected("an opening"))?.revision() + 1;
        session.listen_for_wishes(&line, &client, from)?;
        Ok(Opened::new(Arc::new(EtcdSession(session)), granted))
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn id(&self) -> SessionId {
        self.0.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let shared = &self.0;
        let asked: Vec<Option<String>> = known.iter().map(|claim| shared.name_of(claim)).collect();
        let gets: Vec<_> = asked.iter().flatten().map(|name| TxnOp::get(name.clone(), None)).collect();
        let lease = shared.lease;
        let kept = shared.link.call(|client| async move {
            // The two ends of it are dropped: the next renewal makes a stream of its own, and none is left to break unseen.
            client.lease_client().keep_alive(lease).await.map(|_| ())
        });
        let looked = async {
            if gets.is_empty() {
                return Ok(None);
            }
            let txn = Txn::new().and_then(gets);
            shared.link.call(|client| async move { client.kv_client().txn(txn).await }).await.map(Some)
        };
        let (kept, looked) = tokio::join!(kept, looked);
        kept.map_err(|error| shared.or_lost(error))?;
        shared.listen_again().await;
        let mut found = looked?.map(|response| gets_of(&response)).unwrap_or_default().into_iter();
        let standings = known.iter().zip(&asked).map(|(claim, name)| match name {
            Some(_) => shared.standing(claim, found.next().flatten()),
            None if shared.places().waits_here(&claim.key, claim.ticket) => {
                Standing::Waits { recheck_in: None }
            }
            None => Standing::Gone,
        });
        Ok(Renewal::new(standings.collect()))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let shared = &self.0;
        let entered = shared.places().enter(claim);
        let slot = match entered {
            Entered::In(slot) => slot,
            Entered::Withdrawn => return Err(refused(Outcome::Withdrawn)),
            Entered::WaitsHere => return shared.too_many(claim).await,
        };
        let lock = shared.names.lock(&claim.key);
        let fixed = match claim.term {
            Term::Fixed(time) | Term::Session { at_least: time } => Some(time).filter(|time| !time.is_zero()),
            _ => {
                return Err(Error::unsupported(format!(
                    "the store in etcd knows no term such as {:?}",
                    claim.term
                )));
            }
        };
        let own_lease = match fixed {
            Some(time) => Some(shared.lease_for(time).await?),
            None => None,
        };
        let asked = Asked {
            claim,
            name: names::claim(&lock, shared.lease, slot),
            lock,
            session: shared.names.session(shared.id),
            value: value(shared.id, claim, &shared.info),
            lease: shared.lease,
            own_lease,
        };
        let claimed = shared.claim(&asked).await;
        match &claimed {
            Ok(Claimed::Busy(_)) => shared.left(claim.ticket, true),
            Err(error) if error.took_effect() == Effect::NotApplied => shared.left(claim.ticket, true),
            _ => {}
        }
        claimed
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let shared = &self.0;
        let Some(name) = shared.name_of(claim) else {
            let gave_up = shared.places().give_up(claim, certainty);
            return Ok(if gave_up { Released::Done } else { Released::Gone });
        };
        let (revision, keeps) = shared.what_is_given_back(claim.ticket);
        let mut deletes = vec![TxnOp::delete(name.clone(), None)];
        if !keeps {
            deletes.push(TxnOp::delete(names::companion(&name), None));
        }
        let is_certain = certainty == Certainty::Settled && revision.is_some();
        let txn = match revision {
            Some(revision) if is_certain => {
                Txn::new().when(vec![is_made_at(&name, revision)]).and_then(deletes)
            }
            _ => {
                let session = shared.names.session(shared.id);
                let (mark, lease) =
                    (shared.names.withdrawn(&name), PutOptions::new().with_lease(shared.lease));
                let mut marked = deletes.clone();
                marked.push(TxnOp::put(mark, "", Some(lease)));
                // Nothing takes effect for a session that is over.
                Txn::new().when(vec![exists(&session)]).and_then(marked).or_else(deletes)
            }
        };
        let response = shared.link.call(|client| async move { client.kv_client().txn(txn).await }).await?;
        let deleted = response.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Delete(deleted) => Some(deleted.deleted()),
            _ => None,
        });
        shared.left(claim.ticket, is_certain);
        Ok(if deleted.unwrap_or(0) > 0 { Released::Done } else { Released::Gone })
    }

    async fn close(&self) -> Result<()> {
        let lease = self.0.lease;
        let revoked = self
            .0
            .link
            .call(|client| async move { client.lease_client().revoke(lease).await.map(|_| ()) })
            .await;
        match revoked {
            Err(error) if !is_lease_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Shared {
    async fn claim(self: &Arc<Shared>, asked: &Asked<'_>) -> Result<Claimed> {
        let txn = asked.first(&self.names);
        let (response, line, client) = self.txn(txn).await.map_err(|error| self.or_lost(error))?;
        let (queue, revision) = match asked.answer(&response)? {
            Answer::Granted(revision) => return self.granted(asked, revision),
            Answer::Queue { session_lives: false, .. } => {
                return Err(Error::session_lost(Reason::SessionEnded));
            }
            Answer::Queue { is_withdrawn: true, .. } => return Err(refused(Outcome::Withdrawn)),
            Answer::Queue { queue, revision, .. } => (queue, revision),
        };
        let place = queue.place(&asked.name);
        if let Some(in_force) = queue.other_capacity(place, asked.claim.permit) {
            if place.is_some() {
                self.take_back(asked).await?;
            }
            return Err(refused(Outcome::CapacityMismatch { in_force }));
        }
        match place {
            Some(place) if queue.holds(place) => self.comes_to_hold(asked, &queue.entries()[place]).await,
            Some(place) => self.waits(asked, &queue, place, revision, &line, &client).await,
            None if queue.has_room_for(asked.claim.permit) => {
                let (response, ..) = self.txn(asked.behind(&self.names, revision)).await?;
                let made_at = response.header().ok_or_else(|| unexpected("a claim"))?.revision();
                // Else somebody was quicker: that is to be busy.
                if response.succeeded() {
                    self.granted(asked, made_at)
                } else {
                    Ok(Claimed::Busy(busy(&queue)))
                }
            }
            None => Ok(Claimed::Busy(busy(&queue))),
        }
    }

    /// It holds by its place. What is to last for a time of its own is given that now.
    async fn comes_to_hold(self: &Arc<Shared>, asked: &Asked<'_>, entry: &Entry) -> Result<Claimed> {
        let name = match entry.kind {
            Kind::Fixed if entry.lease == self.lease => entry.name.clone(),
            Kind::AtLeast if !matches!(self.stands(asked.claim.ticket), Some(Stands::Holds(..))) => {
                names::companion(&entry.name)
            }
            _ => return self.granted(asked, entry.revision),
        };
        let lease = asked.own_lease.ok_or_else(|| unexpected("a claim for a time"))?;
        let put = TxnOp::put(name, asked.value.clone(), Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when(vec![is_made_at(&entry.name, entry.revision)]).and_then(vec![put]);
        let (response, ..) = self.txn(txn).await?;
        if response.succeeded() {
            self.granted(asked, entry.revision)
        } else {
            Err(Error::unavailable("the claim was ended while it was granted").effect(Effect::Unknown))
        }
    }

    async fn waits(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        queue: &Queue,
        place: usize,
        revision: i64,
        line: &Arc<Line>,
        client: &Client,
    ) -> Result<Claimed> {
        let (ticket, own) = (asked.claim.ticket, &queue.entries()[place]);
        let is_first = queue.holders() == place;
        let found_first = match self.places().of(ticket) {
            Some(place) => {
                if place.stands == Stands::Unknown {
                    place.stands = Stands::Waits(own.revision);
                }
                place.found_first += u32::from(is_first);
                place.found_first
            }
            None => 0,
        };
        let watch = self.watch(ticket, queue.obstacle(place), own.revision, revision + 1, line, client)?;
        if let Some(place) = self.places().of(ticket) {
            place.watch = Some(watch);
        }
        if is_first && found_first > 1 {
            self.tell_holders(queue).await?;
        }
        let recheck_in = is_first.then_some(if found_first > 1 { LATER_LOOKS } else { FIRST_LOOK });
        Ok(Claimed::Queued { recheck_in, busy: busy(queue) })
    }

    fn watch(
        self: &Arc<Shared>,
        ticket: Ticket,
        obstacle: Obstacle,
        own: i64,
        from: i64,
        line: &Arc<Line>,
        client: &Client,
    ) -> Result<Watch> {
        let this = Arc::downgrade(self);
        let (name, is_prefix, tell): (String, bool, Tell) = match obstacle {
            Obstacle::Key { name, is_all } => {
                let tell = move |news: News<'_>| {
                    let Some(this) = Weak::upgrade(&this) else { return };
                    match news {
                        News::Gone { .. } if is_all => this.has_come_to_hold(ticket, own),
                        _ => this.sink.send(Event::Recheck(ticket)),
                    }
                };
                (name, false, Arc::new(tell))
            }
            Obstacle::Any { before, surplus } => {
                let lock = before
                    .first()
                    .and_then(|(name, _)| name.rsplit_once('/'))
                    .map(|(lock, _)| format!("{lock}/"));
                let left = Mutex::new((before, surplus));
                let tell = move |news: News<'_>| {
                    let Some(this) = Weak::upgrade(&this) else { return };
                    if let News::Gone { name } = news {
                        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                        let (before, surplus) = &mut *left;
                        let Some(gone) = before.iter().position(|(other, _)| other == name) else { return };
                        *surplus = surplus.saturating_sub(u64::from(before.remove(gone).1));
                        if *surplus > 0 {
                            return;
                        }
                    }
                    this.sink.send(Event::Recheck(ticket));
                };
                (lock.unwrap_or_default(), true, Arc::new(tell))
            }
        };
        line.watches.watch(client, Range { name, is_prefix, only_gone: true, from }, tell)
    }

    /// The last that was in its way has gone.
    fn has_come_to_hold(&self, ticket: Ticket, revision: i64) {
        let Some(token) = u64::try_from(revision).ok().and_then(|revision| FencingToken::new(revision).ok())
        else {
            return;
        };
        let proof = {
            let mut places = self.places();
            let Some(place) = places.of(ticket).filter(|place| place.stands == Stands::Waits(revision))
            else {
                return;
            };
            place.stands = Stands::Holds(revision, self.clock.boot());
            let name = names::claim(&self.names.lock(&place.key), self.lease, place.slot);
            Proof::new(Claimant { name, revision })
        };
        self.sink.send(Event::Granted { ticket, token, proof });
    }

    fn granted(&self, asked: &Asked<'_>, revision: i64) -> Result<Claimed> {
        let token = token(revision)?;
        if let Some(place) = self.places().of(asked.claim.ticket) {
            place.watch = None;
            if !matches!(place.stands, Stands::Holds(..)) {
                place.stands = Stands::Holds(revision, self.clock.boot());
            }
        }
        let proof = Proof::new(Claimant { name: asked.name.clone(), revision });
        Ok(Claimed::Granted { token, proof })
    }

    /// Too many of this session's own are in the store already.
    async fn too_many(&self, claim: &Claim) -> Result<Claimed> {
        if claim.wait {
            return Ok(Claimed::Queued { recheck_in: None, busy: Busy::new() });
        }
        let lock = self.names.lock(&claim.key);
        let look = GetOptions::new().with_prefix();
        let all =
            self.link.call(|client| async move { client.kv_client().get(lock, Some(look)).await }).await?;
        Ok(Claimed::Busy(busy(&claim::queue(all.kvs())?)))
    }

    async fn take_back(&self, asked: &Asked<'_>) -> Result<()> {
        let deletes =
            vec![TxnOp::delete(asked.name.clone(), None), TxnOp::delete(names::companion(&asked.name), None)];
        self.txn(Txn::new().and_then(deletes)).await.map(|_| ())
    }

    /// Says to each of the holders that somebody waits: its engine then knows of a hold that nobody owns.
    async fn tell_holders(&self, queue: &Queue) -> Result<()> {
        let holders = queue.entries()[..queue.holders()].iter();
        let told: Vec<_> = holders
            .filter(|entry| matches!(entry.kind, Kind::Session | Kind::AtLeast))
            .take(16)
            .filter_map(|entry| {
                let (name, key) = (self.names.wanted(entry.lease), self.names.key_of(&entry.name)?);
                let value = format!("{} {}", entry.ticket.0, key.encoded());
                let lease = PutOptions::new().with_lease(self.lease);
                Some(TxnOp::put(format!("{name}{:016x}-{}", self.lease, entry.ticket.0), value, Some(lease)))
            })
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        self.txn(Txn::new().and_then(told)).await.map(|_| ()).map_err(|error| self.or_lost(error))
    }

    fn listen_for_wishes(self: &Arc<Shared>, line: &Arc<Line>, client: &Client, from: i64) -> Result<()> {
        let this = Arc::downgrade(self);
        let tell: Tell = Arc::new(move |news| {
            let Some(this) = Weak::upgrade(&this) else { return };
            match news {
                News::Written { value } => {
                    let wish = value.split_once(' ').and_then(|(ticket, key)| {
                        Some(ClaimRef::new(LockKey::decode(key)?, Ticket(ticket.parse().ok()?)))
                    });
                    wish.into_iter().for_each(|claim| this.sink.send(Event::Wanted(claim)));
                }
                News::Gone { .. } => {}
                News::Broken => drop(this.wanted().take()),
            }
        });
        let range = Range { name: self.names.wanted(self.lease), is_prefix: true, only_gone: false, from };
        let watch = line.watches.watch(client, range, tell)?;
        *self.wanted() = Some(watch);
        Ok(())
    }

    /// Unless it does. What was said meanwhile is said again by whoever goes on waiting.
    async fn listen_again(self: &Arc<Shared>) {
        if self.wanted().as_ref().is_some_and(Watch::is_alive) {
            return;
        }
        let name = self.names.session(self.id);
        let looked = self
            .link
            .on_line(|line, client| async move {
                let look = GetOptions::new().with_keys_only();
                let got = client.kv_client().get(name, Some(look)).await?;
                Ok((got, line, client))
            })
            .await;
        // Best effort: the next renewal tries again.
        if let Ok((got, line, client)) = looked
            && let Some(header) = got.header()
        {
            let _ = self.listen_for_wishes(&line, &client, header.revision() + 1);
        }
    }

    fn standing(&self, claim: &ClaimRef, found: Option<Entry>) -> Standing {
        let Some(entry) = found.filter(|entry| entry.ticket == claim.ticket) else { return Standing::Gone };
        match self.stands(claim.ticket) {
            Some(Stands::Holds(..)) => match token(entry.revision) {
                Ok(token) => {
                    let proof = Proof::new(Claimant { name: entry.name, revision: entry.revision });
                    Standing::Holds { token, proof }
                }
                Err(_) => Standing::Unknown,
            },
            Some(Stands::Waits(_)) => Standing::Waits { recheck_in: None },
            _ => Standing::Waits { recheck_in: Some(Duration::ZERO) },
        }
    }

    /// The revision of what is given back, if it is known; and whether its companion has to stay.
    fn what_is_given_back(&self, ticket: Ticket) -> (Option<i64>, bool) {
        match self.places().of(ticket) {
            Some(place) => match place.stands {
                Stands::Holds(revision, since) => {
                    (Some(revision), self.clock.boot().since(since) < place.at_least)
                }
                Stands::Waits(revision) => (Some(revision), false),
                Stands::Unknown => (None, false),
            },
            None => (None, false),
        }
    }

    fn left(&self, ticket: Ticket, is_certain: bool) {
        let next = self.places().leave(ticket, is_certain);
        next.into_iter().for_each(|ticket| self.sink.send(Event::Recheck(ticket)));
    }

    fn name_of(&self, claim: &ClaimRef) -> Option<String> {
        let slot = self.places().of(claim.ticket)?.slot;
        Some(names::claim(&self.names.lock(&claim.key), self.lease, slot))
    }

    fn stands(&self, ticket: Ticket) -> Option<Stands> {
        self.places().of(ticket).map(|place| place.stands)
    }

    /// A lease of whole seconds, never shorter than was asked, that nobody renews.
    async fn lease_for(&self, time: Duration) -> Result<i64> {
        let seconds = whole_seconds(time);
        let granted =
            self.link.call(|client| async move { client.lease_client().grant(seconds, None).await }).await?;
        Ok(granted.id())
    }

    async fn txn(&self, txn: Txn) -> Result<(TxnResponse, Arc<Line>, Client)> {
        self.link
            .on_line(|line, client| async move {
                let response = client.kv_client().txn(txn).await?;
                Ok((response, line, client))
            })
            .await
    }

    fn or_lost(&self, error: Error) -> Error {
        if is_lease_gone(&error) { Error::session_lost(Reason::SessionEnded) } else { error }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, Option<Watch>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Grants the session's lease, or finds the one that an earlier copy of this call was granted. Returns the TTL in force.
async fn grant(link: &Arc<Link>, ttl: Duration, lease: i64) -> Result<Duration> {
    let (seconds, options) = (whole_seconds(ttl), LeaseGrantOptions::new().with_id(lease));
    let granted =
        link.call(|client| async move { client.lease_client().grant(seconds, Some(options)).await }).await;
    let seconds = match granted {
        Ok(granted) => granted.ttl(),
        Err(error) if is_lease_there(&error) => {
            let found = link
                .call(|client| async move { client.lease_client().time_to_live(lease, None).await })
                .await?;
            if found.ttl() <= 0 {
                return Err(Error::session_lost(Reason::SessionEnded));
            }
            found.granted_ttl()
        }
        Err(error) => return Err(error),
    };
    u64::try_from(seconds).map(Duration::from_secs).map_err(|_| unexpected("a lease"))
}

/// Sixty-three of its bits: as good as never used twice.
fn lease_of(id: SessionId) -> i64 {
    let bits = id.as_u128() as u64 & (i64::MAX as u64);
    i64::try_from(bits.max(1)).unwrap_or(1)
}

fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn token(revision: i64) -> Result<FencingToken> {
    let number = u64::try_from(revision).map_err(|_| unexpected("a claim"))?;
    FencingToken::new(number).map_err(|error| {
        Error::new(ErrorKind::Protocol, "the store's revision is no token")
            .effect(Effect::Unknown)
            .caused_by(error)
    })
}

fn refused(outcome: Outcome) -> Error {
    outcome.into_error().unwrap_or_else(|outcome| Error::new(ErrorKind::Protocol, format!("{outcome:?}")))
}

/// Who is in the way: the first that holds.
fn busy(queue: &Queue) -> Busy {
    match queue.entries().first() {
        Some(first) => Busy::new().held_by(first.info.clone()).under(token(first.revision).ok()),
        None => Busy::new(),
    }
}

fn gets_of(response: &TxnResponse) -> Vec<Option<Entry>> {
    let gets = response.op_responses().into_iter().filter_map(|response| match response {
        TxnOpResponse::Get(get) => Some(get.kvs().first().and_then(|kv| claim::entry(kv).ok())),
        _ => None,
    });
    gets.collect()
}

impl fmt::Debug for EtcdSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdSession({} at {})", self.0.id, self.0.link.endpoint())
    }
}
