//! [`PostgresSession`]: one unit of liveness, and its claims.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::table::Outcome;
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Effect, Error, EventSink, FencingToken, Proof, Reason, Released,
    Renewal, Result, Session, SessionId, SessionOptions, Standing, Term, Ticket,
};
use sqlx::Row;

use crate::ask::{Answer, Ask, bytes, micros, number, recheck, token};
use crate::dial::Dial;
use crate::ears::Ear;
use crate::failure::{failed, unexpected};
use crate::known::Known;
use crate::line::{Fate, Line, Unanswered, query};
use crate::names::name;
use crate::store::Store;

/// How often a claim or a release is sent again because sessions were in the way that had expired, or somebody was at the key's row:
/// for that each of them has waited a tenth of a second.
const TRIES: usize = 20;

/// The same for a claim that does not wait, where somebody was at the row.
const TRIES_WITHOUT_WAITING: usize = 3;

/// How many keys one statement of a closing session looks at: others wait for them meanwhile.
const CLOSED_AT_ONCE: usize = 50;

pub(crate) struct PostgresSession {
    store: Arc<Store>,
    id: SessionId,
    ttl: Duration,
    known: Mutex<Known>,
    _ear: Ear,
}

/// What is asked, as often as it takes.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Claim(&'a Claim),
    Release { ticket: Ticket, uncertain: bool },
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

    /// Asks until nothing is in the way. Of sessions that have expired each is ended first, in a step of its own.
    async fn asked(&self, wish: Wish<'_>, key: &[u8]) -> Result<Answer, Unanswered> {
        let (mut locked, mut times_locked, mut is_second) = (None, 0, false);
        let waits = !matches!(wish, Wish::Claim(Claim { wait: false, .. }));
        for _ in 0..TRIES {
            let line = self.store.line().map_err(Unanswered::before_it_was_sent)?;
            let answer = match wish {
                Wish::Claim(claim) => self.send_claim(&line, claim, key).await,
                Wish::Release { ticket, uncertain } => self.send_release(&line, ticket, uncertain, key).await,
            };
            match answer.map_err(Unanswered::before_it_was_sent)? {
                Ok(answer) if !answer.is_put_off() => return Ok(answer),
                Ok(answer) => {
                    self.store.end(answer.expired).await.map_err(Unanswered::before_it_was_sent)?;
                }
                Err(unanswered) if unanswered.fate == Fate::Locked => {
                    locked = Some(unanswered);
                    times_locked += 1;
                    if !waits && times_locked == TRIES_WITHOUT_WAITING {
                        break;
                    }
                }
                Err(Unanswered { fate: Fate::NeverSent | Fate::Unconnected, .. }) if !is_second => {
                    is_second = true;
                }
                Err(unanswered) => return Err(unanswered),
            }
        }
        Err(locked.unwrap_or_else(|| {
            let error =
                Error::unavailable("sessions in the way expire and are renewed, again and again; it passes");
            Unanswered::before_it_was_sent(error.effect(Effect::NotApplied))
        }))
    }

    /// One copy of a claim, unless it has been withdrawn.
    async fn send_claim(&self, line: &Line, claim: &Claim, key: &[u8]) -> Result<Result<Answer, Unanswered>> {
        let ask = Ask::claim(self.id, claim, key.to_vec())?;
        let sent = {
            let mut known = self.known();
            // In one step: a release that comes later knows of this copy, and is behind it in the line.
            if known.is_withdrawn(claim.ticket) {
                None
            } else {
                Some((known.sends(key, claim.ticket, line.number), self.store.ask(line, ask)))
            }
        };
        let Some((copy, answer)) = sent else {
            let over = if self.lives().await? { Outcome::Withdrawn } else { Outcome::SessionEnded };
            return Err(over.into_error());
        };
        let answer = answer.await;
        match answer.as_ref().map_err(|unanswered| unanswered.fate) {
            Ok(_) | Err(Fate::Refused | Fate::Locked) => self.known().hears(key, claim.ticket, copy),
            Err(Fate::Unconnected | Fate::NeverSent) => self.known().never_sent(key, claim.ticket, copy),
            Err(Fate::Sent) => {}
        }
        Ok(answer)
    }

    async fn send_release(
        &self,
        line: &Line,
        ticket: Ticket,
        uncertain: bool,
        key: &[u8],
    ) -> Result<Result<Answer, Unanswered>> {
        let sent = {
            let known = self.known();
            let is_elsewhere = uncertain && known.is_elsewhere(key, ticket, line.number);
            self.store.ask(line, Ask::release(self.id, ticket, key.to_vec(), is_elsewhere)?)
        };
        Ok(sent.await)
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
        for ((row, key), claim) in rows.iter().zip(keys).zip(known) {
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
                ("g", _) => {
                    self.known().over(&key, claim.ticket);
                    Standing::Gone
                }
                _ => return Err(unexpected("a renewal")),
            });
        }
        Ok(Renewal::new(standings))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let key = name(&claim.key);
        let answer = match self.asked(Wish::Claim(claim), &key).await {
            Err(unanswered) if unanswered.fate == Fate::Locked && !claim.wait => Answer::busy_with_the_row(),
            answer => answer.map_err(|unanswered| unanswered.error)?,
        };
        let proof =
            answer.token()?.map_or(Proof::NONE, |token| Fenced::proof(&self.store.dial, key.clone(), token));
        let claimed = answer.claimed(proof);
        match &claimed {
            // It does not end with the session, so it is not the session's to end.
            Ok(Claimed::Granted { .. }) if matches!(claim.term, Term::Fixed(_)) => {
                self.known().over(&key, claim.ticket);
            }
            Ok(Claimed::Busy(_)) | Err(_) => self.known().over(&key, claim.ticket),
            Ok(_) => {}
        }
        claimed
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let key = name(&claim.key);
        let uncertain = certainty == Certainty::MaybeInFlight;
        if uncertain {
            self.known().withdraw(claim.ticket);
        }
        let wish = Wish::Release { ticket: claim.ticket, uncertain };
        let answer = self.asked(wish, &key).await.map_err(|unanswered| unanswered.error)?;
        let released = answer.released()?;
        self.known().forget(&key, claim.ticket);
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
