//! Asking for a lock, once.

use std::sync::Arc;

use lock_core::table::Outcome;
use lock_core::{Busy, Claim, Claimed, Effect, Error, ErrorKind, Note, Result, Term, Ticket};
use zookeeper_client::{Client, CreateMode, Error as Driver, MultiWriteError, MultiWriteResult};

use super::Shared;
use super::renewing::or_lost;
use crate::entry::{self, Entry, Queue};
use crate::failure::failed;
use crate::place::{Entered, Made, Stands};

/// So often a claim is sent again where it was not made for a reason that passes: the lock's node has been removed, which the
/// servers do when it is idle, or the session's own node has another version.
const ATTEMPTS: usize = 8;

/// A claim, and the path of its lock.
pub(super) struct Asked<'a> {
    pub(super) claim: &'a Claim,
    pub(super) lock: String,
    /// What its node's name begins with.
    name: String,
}

/// What has come of a claim that was sent.
enum Sent {
    /// It was made, and nobody else was there in the same instant: it holds.
    Alone,
    /// It was made, among others.
    Among,
    /// The lock's node is not there, or is, and was expected to be otherwise.
    Lock { is_there: bool },
    /// Nothing is made at this version of the session's own node.
    OtherVersion,
}

impl Shared {
    pub(super) async fn claim(self: &Arc<Shared>, claim: &Claim) -> Result<Claimed> {
        if claim.term != Term::default() {
            return Err(Error::unsupported(
                "a hold in ZooKeeper ends with its session: there are no fixed terms and no hold_at_least there",
            ));
        }
        let entered = self.places().enter(claim);
        match entered {
            Entered::Withdrawn => return Err(Outcome::Withdrawn.into_error()),
            Entered::WaitsHere => {}
            Entered::Sent { next } => return self.is_sent(claim, next).await,
        }
        // So many claims of this session wait for the lock that this one is not sent.
        if claim.wait {
            return Ok(Claimed::Queued { recheck_in: None, busy: Busy::new() });
        }
        let lock = self.names.lock(&claim.key);
        let queue = self.wire.ask(|client| async move { look(&client, &lock).await }).await?;
        Ok(Claimed::Busy(self.busy(&claim.key, &queue).await?))
    }

    async fn is_sent(self: &Arc<Shared>, claim: &Claim, next: Option<Ticket>) -> Result<Claimed> {
        self.tell_next(next);
        let asked = Asked { claim, lock: self.names.lock(&claim.key), name: entry::name(self.id, claim) };
        let claimed = self.ask(&asked).await;
        let ticket = claim.ticket;
        let is_left = {
            let mut places = self.places();
            places.may_arrive(ticket)
                || places.of(ticket).is_some_and(|place| place.stands != Stands::Unknown)
        };
        if !is_left {
            // Neither granted nor queued, and nothing of it can come: its place is free.
            let next = self.places().leave(ticket);
            self.tell_next(next);
        }
        // What is in the store is to be released, whatever went wrong after it was made.
        claimed.map_err(|error| if is_left { error.effect(Effect::Unknown) } else { error })
    }

    /// Asks until the answer is certain.
    async fn ask(self: &Arc<Shared>, asked: &Asked<'_>) -> Result<Claimed> {
        let ticket = asked.claim.ticket;
        if self.places().may_arrive(ticket) {
            self.find(asked).await?;
        }
        let mut with_lock = false;
        for _ in 0..ATTEMPTS {
            if let Some(path) = self.path_of(ticket) {
                let lock = asked.lock.as_str();
                let queue = self.wire.ask(|client| async move { look(&client, lock).await }).await?;
                if let Some(place) = place_of(&queue, &path) {
                    return self.stands_at(asked, place, queue).await;
                }
                // Somebody has ended it. It is made anew.
                self.waits_no_more(ticket);
                self.places().has_gone(ticket);
            }
            match self.send(asked, with_lock).await? {
                Sent::Alone => return self.is_granted(ticket),
                Sent::Among => {}
                // The servers remove it when it has been idle for a while. It is made together with a claim: one in which there has
                // never been any they would keep for ever.
                Sent::Lock { is_there } => with_lock = !is_there,
                Sent::OtherVersion => {
                    self.beat().await?;
                }
            }
        }
        Err(Error::unavailable(format!(
            "the claim was not made in {ATTEMPTS} attempts: does something else remove nodes under this root, or write to those of \
             its sessions?"
        )))
    }

    /// One request, which says as well whether anybody else is there.
    ///
    /// Invariant: nothing is made for a session that is over, nor by a copy that was sent before the last renewal: both are checked
    /// in the step that makes it.
    async fn send(&self, asked: &Asked<'_>, with_lock: bool) -> Result<Sent> {
        let ticket = asked.claim.ticket;
        self.wire
            .ask(|client| async move {
                let making = {
                    let mut pulse = self.pulse.lock();
                    let Some(version) = pulse.expected() else { return Ok(Sent::OtherVersion) };
                    let note = asked.claim.note.as_ref().map_or("", Note::as_str).as_bytes();
                    let options = CreateMode::EphemeralSequential.with_acls(self.acls());
                    let mut claim = client.new_multi_writer();
                    claim.add_check_version(&self.names.session(self.id), version).map_err(failed)?;
                    if with_lock {
                        let lock = CreateMode::Container.with_acls(self.acls());
                        claim.add_create(&asked.lock, b"", &lock).map_err(failed)?;
                    }
                    let name = format!("{}/{}", asked.lock, asked.name);
                    claim.add_create(&name, note, &options).map_err(failed)?;
                    // Of a node that a multi has created servers do not say when, but of one that it has written to; and how many
                    // nodes are in that one. All of it is one transaction, and the lock's node has no data that this could change.
                    claim.add_set_data(&asked.lock, b"", None).map_err(failed)?;
                    self.places().sent(ticket);
                    claim.commit()
                };
                let (made, is_alone) = match making.await {
                    Ok(done) => made(done)?,
                    Err(error) => {
                        let sent = not_made(error);
                        if sent.as_ref().err().is_none_or(|error| error.took_effect() == Effect::NotApplied) {
                            self.places().answered(ticket);
                        }
                        if matches!(sent, Ok(Sent::OtherVersion)) {
                            self.pulse.lock().is_lost();
                        }
                        return sent;
                    }
                };
                // That it was made is noted at once: whatever goes wrong from here on, it is there, and has to be given back.
                let mut places = self.places();
                places.answered(ticket);
                let name = made.path.rsplit('/').next().and_then(Entry::read);
                let is_near = name.is_some_and(|entry| entry.is_near_the_end());
                if let Some(place) = places.of(ticket) {
                    place.stands = Stands::Waits(made);
                }
                Ok(if is_alone && !is_near { Sent::Alone } else { Sent::Among })
            })
            .await
    }

    /// A copy of it may have taken effect. None can any more behind this, and what there is can be seen.
    async fn find(&self, asked: &Asked<'_>) -> Result<()> {
        self.beat_all().await?;
        let ticket = asked.claim.ticket;
        let mut found = self.own(&asked.lock, ticket).await?.into_iter();
        let first = found.next();
        for path in found {
            self.delete(&path).await?;
        }
        let made = match first {
            Some(path) => {
                let looked = path.clone();
                let stat = self
                    .wire
                    .ask(|client| async move { client.check_stat(&looked).await.map_err(failed) })
                    .await?;
                stat.map(|stat| Made { path, zxid: stat.czxid })
            }
            None => None,
        };
        let mut places = self.places();
        places.nothing_may_arrive(ticket);
        if let (Some(place), Some(made)) = (places.of(ticket), made) {
            place.stands = Stands::Waits(made);
        }
        Ok(())
    }

    /// It is in the queue.
    async fn stands_at(self: &Arc<Shared>, asked: &Asked<'_>, place: usize, queue: Queue) -> Result<Claimed> {
        if let Some(in_force) = queue.other_capacity(Some(place), asked.claim.permit) {
            self.takes_back(asked).await?;
            return Err(Outcome::CapacityMismatch { in_force }.into_error());
        }
        if queue.entries()[place].is_near_the_end() {
            self.takes_back(asked).await?;
            let message = "the numbers of this lock's claims are used up: it is to be idle for a minute, then they begin anew";
            return Err(Error::new(ErrorKind::Exhausted, message).effect(Effect::NotApplied).retryable(true));
        }
        if queue.holds(place) {
            return self.is_granted(asked.claim.ticket);
        }
        if asked.claim.wait {
            return self.waits(asked, place, queue).await;
        }
        // It only tried.
        self.takes_back(asked).await?;
        self.tell_holders_of_a_try(&asked.claim.key, &queue).await;
        Ok(Claimed::Busy(self.busy(&asked.claim.key, &queue).await?))
    }

    pub(super) fn is_granted(&self, ticket: Ticket) -> Result<Claimed> {
        self.waits_no_more(ticket);
        let gone =
            || Error::unavailable("the claim was given back while it was granted").effect(Effect::Unknown);
        let (made, next) = {
            let mut places = self.places();
            let place = places.of(ticket).ok_or_else(gone)?;
            let (Stands::Waits(made) | Stands::Holds(made)) = place.stands.clone() else {
                return Err(gone());
            };
            (made.clone(), places.holds(ticket, made))
        };
        self.tell_next(next);
        let (token, proof) = self.grant(&made)?;
        Ok(Claimed::Granted { token, proof })
    }

    /// It has a place that it is not to have.
    async fn takes_back(&self, asked: &Asked<'_>) -> Result<()> {
        if let Some(path) = self.path_of(asked.claim.ticket) {
            self.delete(&path).await?;
        }
        self.waits_no_more(asked.claim.ticket);
        self.places().has_gone(asked.claim.ticket);
        Ok(())
    }

    pub(super) fn path_of(&self, ticket: Ticket) -> Option<String> {
        self.of(ticket, |place| match &place.stands {
            Stands::Unknown => None,
            Stands::Waits(made) | Stands::Holds(made) => Some(made.path.clone()),
        })
        .flatten()
    }
}

/// The claims of a lock. Where there is no node, there is none.
pub(super) async fn look(client: &Client, lock: &str) -> Result<Queue> {
    match client.list_children(lock).await {
        Ok(names) => entry::queue(lock, &names),
        Err(Driver::NoNode) => entry::queue(lock, &[]),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn place_of(queue: &Queue, path: &str) -> Option<usize> {
    let name = path.rsplit('/').next()?;
    queue.entries().iter().position(|entry| entry.name == name)
}

/// The claim's node, and whether it is the only one of its lock.
fn made(done: Vec<MultiWriteResult>) -> Result<(Made, bool)> {
    let (mut path, mut lock) = (None, None);
    for done in done {
        match done {
            MultiWriteResult::Create { path: created, .. } => path = Some(created),
            MultiWriteResult::SetData { stat } => lock = Some(stat),
            _ => {}
        }
    }
    let made = path.zip(lock).map(|(path, lock)| (Made { path, zxid: lock.mzxid }, lock.num_children == 1));
    made.ok_or_else(|| {
        Error::new(
            ErrorKind::Protocol,
            "the answer to a claim lacks what it should have; is this ZooKeeper 3.6 or later?",
        )
        .effect(Effect::Unknown)
    })
}

/// Why a claim was not made.
fn not_made(error: MultiWriteError) -> Result<Sent> {
    match error {
        MultiWriteError::OperationFailed { index: 0, source: Driver::BadVersion } => Ok(Sent::OtherVersion),
        MultiWriteError::OperationFailed { index: 0, source } => Err(or_lost(source)),
        MultiWriteError::OperationFailed { source: Driver::NoNode, .. } => Ok(Sent::Lock { is_there: false }),
        MultiWriteError::OperationFailed { index: 1, source: Driver::NodeExists } => {
            Ok(Sent::Lock { is_there: true })
        }
        MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source } => {
            Err(failed(source))
        }
    }
}
