//! [`PostgresSession`]: one unit of liveness, and its claims.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::table::Outcome;
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Effect, Error, EventSink, FencingToken, Proof, Reason, Released,
    Renewal, Result, Session, SessionId, SessionOptions, Standing, Term,
};
use sqlx::Row;

use crate::ask::{Answer, Ask, bytes, micros, number, recheck, refused, token};
use crate::dial::Dial;
use crate::ears::Ear;
use crate::failure::{failed, unexpected};
use crate::known::Known;
use crate::line::{Line, query};
use crate::names::name;
use crate::store::Store;

/// How often a claim is sent again because sessions were in the way that had expired.
const TRIES: usize = 20;

/// How many keys one statement of a closing session looks at: others wait for them meanwhile.
const CLOSED_AT_ONCE: usize = 50;

pub(crate) struct PostgresSession {
    store: Arc<Store>,
    id: SessionId,
    ttl: Duration,
    known: Mutex<Known>,
    _ear: Ear,
}

/// By which a transaction can be fenced.
#[derive(Debug)]
pub(crate) struct Fenced {
    pub(crate) statement: Arc<str>,
    pub(crate) key: Vec<u8>,
    pub(crate) token: FencingToken,
}

impl Fenced {
    pub(crate) fn proof(dial: &Dial, key: Vec<u8>, token: FencingToken) -> Proof {
        Proof::new(Fenced { statement: dial.schema.fence.clone(), key, token })
    }
}

impl PostgresSession {
    pub(crate) async fn open(
        store: &Arc<Store>,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<PostgresSession> {
        let (id, ttl) = (options.id, options.ttl);
        // Not before its news are heard.
        let ear = store.ears.listen(id, sink);
        store.is_heard().await?;
        let (channel, info) = (store.ears.channel(), options.info.encoded());
        let rows = store.query(query!(store.dial.schema.open, bytes(id), micros(ttl), channel, info)).await?;
        let is_open: bool =
            rows.first().ok_or_else(|| unexpected("an opening"))?.try_get(0).map_err(failed)?;
        if !is_open {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        Ok(PostgresSession { store: store.clone(), id, ttl, known: Mutex::default(), _ear: ear })
    }

    /// Asks until no session is in the way that has expired: each of these is ended first, in a step of its own.
    async fn asked(&self, mut ask: impl FnMut(&Line) -> Result<Ask>) -> Result<Answer> {
        for _ in 0..TRIES {
            let line = self.store.line()?;
            let ask = ask(&line)?;
            let answer = self.store.ask(&line, ask).await?;
            if !answer.is_put_off() {
                return Ok(answer);
            }
            self.store.end(answer.expired).await?;
        }
        Err(Error::unavailable("sessions in the way expire and are renewed, again and again; it passes")
            .effect(Effect::NotApplied))
    }

    async fn lives(&self) -> Result<bool> {
        let rows = self.store.query(query!(self.store.dial.schema.lives, bytes(self.id))).await?;
        rows.first().ok_or_else(|| unexpected("a look at a session"))?.try_get(0).map_err(failed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Session for PostgresSession {
    fn id(&self) -> SessionId {
        self.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.store.ears.make_sure()?;
        let tickets = known.iter().map(|claim| number(claim.ticket)).collect::<Result<Vec<_>>>()?;
        let keys: Vec<_> = known.iter().map(|claim| name(&claim.key)).collect();
        let (ttl, channel) = (micros(self.ttl), self.store.ears.channel());
        let renew = query!(self.store.dial.schema.renew, bytes(self.id), ttl, channel, tickets, &keys);
        let rows = self.store.query(renew).await?;
        let Some((_, rows)) = rows.split_first() else {
            return Err(Error::session_lost(Reason::SessionEnded));
        };
        if rows.len() != known.len() {
            return Err(unexpected("a renewal"));
        }
        let mut standings = Vec::with_capacity(rows.len());
        for (row, key) in rows.iter().zip(keys) {
            let standing: String = row.try_get(0).map_err(failed)?;
            let number: Option<i64> = row.try_get(1).map_err(failed)?;
            standings.push(match (standing.as_str(), number) {
                ("h", Some(number)) => match token(number) {
                    Ok(token) => {
                        Standing::Holds { token, proof: Fenced::proof(&self.store.dial, key, token) }
                    }
                    // What something else has written there is a matter of this key alone.
                    Err(_) => Standing::Unknown,
                },
                ("w", micros) => Standing::Waits { recheck_in: micros.map(recheck) },
                ("g", _) => Standing::Gone,
                _ => return Err(unexpected("a renewal")),
            });
        }
        Ok(Renewal::new(standings))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let key = name(&claim.key);
        if self.known().is_withdrawn(claim.ticket) {
            let over = if self.lives().await? { Outcome::Withdrawn } else { Outcome::SessionEnded };
            return Err(refused(over));
        }
        let answer = self
            .asked(|line| {
                let ask = Ask::claim(self.id, claim, key.clone())?;
                self.known().sends(&key, claim.ticket, line.number);
                Ok(ask)
            })
            .await;
        if answer.as_ref().err().is_none_or(|error| error.took_effect() == Effect::NotApplied) {
            self.known().hears(&key, claim.ticket);
        }
        let answer = answer?;
        let proof =
            answer.token()?.map_or(Proof::NONE, |token| Fenced::proof(&self.store.dial, key.clone(), token));
        let claimed = answer.claimed(proof);
        match &claimed {
            // It does not end with the session, so it is not the session's to end.
            Ok(Claimed::Granted { .. }) if matches!(claim.term, Term::Fixed(_)) => {
                self.known().gone(&key, claim.ticket);
            }
            Ok(Claimed::Busy(_)) => self.known().gone(&key, claim.ticket),
            _ => {}
        }
        claimed
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let key = name(&claim.key);
        let uncertain = certainty == Certainty::MaybeInFlight;
        if uncertain {
            self.known().withdraw(claim.ticket);
        }
        let answer = self
            .asked(|line| {
                let is_elsewhere = uncertain && self.known().is_elsewhere(&key, claim.ticket, line.number);
                Ask::release(self.id, claim.ticket, key.clone(), is_elsewhere)
            })
            .await?;
        let released = answer.released()?;
        self.known().gone(&key, claim.ticket);
        if !answer.expired.is_empty() {
            // Whoever waits is handed over to as soon as those in his way have been ended, by himself at the latest.
            let _ = self.store.end(answer.expired).await;
            let _ = self.store.settle(&[key]).await;
        }
        Ok(released)
    }

    async fn close(&self) -> Result<()> {
        self.store.query(query!(self.store.dial.schema.close, bytes(self.id))).await?;
        let keys = self.known().keys();
        for keys in keys.chunks(CLOSED_AT_ONCE) {
            self.store.settle(keys).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresSession({} at {})", self.id, self.store.dial.endpoint())
    }
}
