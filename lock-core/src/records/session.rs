//! A session over a store of records: claims, releases and renewals become commands of the lock table.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::transact::{Transacted, decode, transact};
use super::{RecordSession, RecordStore, Sight};
use crate::backend::{
    Certainty, Claim, ClaimRef, Claimed, Proof, Released, Renewal, Session, SessionId, Standing,
};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::{Busy, Reason};
use crate::table::{Blocker, Command, Holding, Input, KeyRecord, Outcome, Waiter};

#[derive(Debug)]
pub(super) struct TableSession {
    store: Arc<dyn RecordStore>,
    session: Arc<dyn RecordSession>,
}

impl TableSession {
    pub(super) fn new(store: Arc<dyn RecordStore>, session: Arc<dyn RecordSession>) -> TableSession {
        TableSession { store, session }
    }

    async fn busy(&self, blocker: Option<Blocker>, input: Input) -> Busy {
        let Some(blocker) = blocker else { return Busy::new() };
        // Best effort: the claim has been applied, and an error would say that it was not.
        let sight = self.store.sight(blocker.session).await.unwrap_or_else(|_| Sight::over());
        let fixed = blocker.until.map(|until| Duration::from_micros(until.saturating_sub(input.now)));
        Busy::new().held_by(sight.info).for_another(fixed.or(sight.remaining)).under(Some(blocker.token))
    }

    /// When the head of the queue has to look again: when the first of the holders has ended, unless it is renewed.
    async fn next_look(&self, record: &KeyRecord, input: Input) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        for holder in record.holders() {
            let ends_in = match holder.holding {
                Holding::Fixed { until, .. } => Some(Duration::from_micros(until.saturating_sub(input.now))),
                Holding::Session { .. } => match self.store.sight(holder.session).await {
                    Ok(sight) if sight.lives => sight.remaining,
                    Ok(_) => Some(Duration::ZERO),
                    Err(_) => Some(self.session.ttl() / 3),
                },
            };
            next = sooner(next, ends_in);
        }
        let slack = self.store.info().capabilities.expiry_slack;
        next.map(|time| time + slack)
    }

    /// Has this claim told when somebody ends whom it waits for: the head the holders, the others the one before them. So
    /// each death is noticed by one, also when the head dies together with the holders.
    fn watch_in_front(&self, claim: &ClaimRef, record: &KeyRecord) {
        let own = self.session.id();
        let is_this = |waiter: &&Waiter| (waiter.session, waiter.ticket) == (own, claim.ticket);
        let before = record.queue().take_while(|waiter| !is_this(waiter)).last();
        let mut sessions: Vec<_> = match before {
            Some(waiter) => vec![waiter.session],
            // A hold with a fixed end does not end with its session: to be told of a death that changes nothing, and to
            // claim again because of it, would go round for as long as the hold lasts.
            None => record
                .holders()
                .iter()
                .filter(|holder| matches!(holder.holding, Holding::Session { .. }))
                .map(|holder| holder.session)
                .collect(),
        };
        sessions.sort_unstable();
        sessions.dedup();
        sessions.retain(|&session| session != own);
        self.session.watch(claim.ticket, &sessions);
    }
}

#[async_trait]
impl Session for TableSession {
    fn id(&self) -> SessionId {
        self.session.id()
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        if !self.session.renew().await? {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        let mut standings = Vec::with_capacity(known.len());
        for (index, claim) in known.iter().enumerate() {
            if index % 64 == 63 {
                // A local store answers without ever waiting: leave room for the other tasks of this thread.
                tokio::task::yield_now().await;
            }
            standings.push(match self.look(claim).await {
                Ok(standing) => standing,
                // What is wrong with one key must not end whatever else the session holds.
                Err(error) if *error.kind() == ErrorKind::Damaged => Standing::Gone,
                Err(_) => Standing::Unknown,
            });
            if !matches!(standings.last(), Some(Standing::Waits { .. })) {
                self.session.unwatch(claim.ticket);
            }
        }
        Ok(Renewal::new(standings))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let lives = self.session.lives().await?;
        let command = Command::Claim(crate::table::Request::of(self.id(), claim));
        let Transacted { applied, record, input } =
            transact(&*self.store, &claim.key, &command, Some((self.id(), lives))).await?;
        match applied.outcome {
            Outcome::Granted { token } => {
                self.session.unwatch(claim.ticket);
                Ok(Claimed::Granted { token, proof: Proof::NONE })
            }
            Outcome::Queued { head, blocker } => {
                let busy = self.busy(blocker, input).await;
                // In this order: whoever dies between the two is seen by the watch.
                let recheck_in = if head { self.next_look(&record, input).await } else { None };
                self.watch_in_front(&claim.reference(), &record);
                Ok(Claimed::Queued { recheck_in: sooner(recheck_in, self.store.poll()), busy })
            }
            Outcome::Busy { blocker } => Ok(Claimed::Busy(self.busy(blocker, input).await)),
            outcome => Err(outcome.into_error()),
        }
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.session.unwatch(claim.ticket);
        let lives = self.session.lives().await?;
        let command = Command::Release { session: self.id(), ticket: claim.ticket, certainty };
        let done = transact(&*self.store, &claim.key, &command, Some((self.id(), lives))).await?;
        match done.applied.outcome {
            Outcome::Released(released) => Ok(released),
            outcome => Err(outcome.into_error()),
        }
    }

    async fn close(&self) -> Result<()> {
        self.session.close().await
    }
}

impl TableSession {
    async fn look(&self, claim: &ClaimRef) -> Result<Standing> {
        let record = decode(&*self.store, &claim.key, &self.store.read(&claim.key).await?)?;
        let standing = record.standing(self.id(), claim.ticket);
        let Standing::Waits { .. } = standing else { return Ok(standing) };
        self.watch_in_front(claim, &record);
        let recheck_in = if record.is_head(self.id(), claim.ticket) {
            self.next_look(&record, self.store.input().await?).await
        } else {
            self.head_end(&record).await
        };
        Ok(Standing::Waits { recheck_in: sooner(recheck_in, self.store.poll()) })
    }

    /// When the head of the queue ends unless it is renewed, or that it is over: the others wait for it to look after the
    /// holders, and one that is dead does not. A head that lives has been renewed long before.
    async fn head_end(&self, record: &KeyRecord) -> Option<Duration> {
        // Best effort: what is wrong with another's session must not end this one.
        let sight = self.store.sight(record.queue().next()?.session).await.ok()?;
        let slack = self.store.info().capabilities.expiry_slack;
        if sight.lives { sight.remaining.map(|time| time + slack) } else { Some(Duration::ZERO) }
    }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}
