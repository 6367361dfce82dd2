//! [`RedisSession`]: one unit of liveness, and its claims.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Clock, Domain, Effect, Error, EventSink, Reason, Released, Renewal,
    Result, Session, SessionId, SessionOptions, Standing, SystemClock, Term,
};
use redis::{Cmd, Value};

use crate::entry::{self, Held};
use crate::failure::{Redirection, redirection};
use crate::kept::{Kept, millis};
use crate::known::{Fence, Known};
use crate::names::Names;
use crate::reply;
use crate::scripts::{self, LineNumber, Script};
use crate::store::{Listening, Question, Store};

/// Each record is given more time once in so many TTLs: far less than [`KEPT_TTLS`], and far from each heartbeat.
const EXTENDED_EVERY: u128 = 4;

/// How many keys one script of a closing session looks at: others wait for it meanwhile.
const CLOSED_AT_ONCE: usize = 50;

pub(crate) struct RedisSession {
    store: Arc<Store>,
    domain: Domain,
    names: Names,
    id: SessionId,
    /// Its key in the store.
    key: String,
    ttl: Duration,
    kept: Kept,
    clock: SystemClock,
    known: Mutex<Known>,
    listening: Listening,
}

impl RedisSession {
    pub(crate) async fn open(
        store: &Arc<Store>,
        names: Names,
        kept: Kept,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<RedisSession> {
        let (id, ttl, info) = (options.id, options.ttl, options.info.encoded());
        let session = RedisSession {
            store: store.clone(),
            domain: options.domain,
            key: names.session(id),
            listening: Listening::new(names.events(id), sink),
            names,
            id,
            ttl,
            kept,
            clock: SystemClock::new(),
            known: Mutex::default(),
        };
        session
            .run(&scripts::OPEN, |command, _| {
                command.arg(1).arg(&session.key).arg(millis(ttl)).arg(&info);
            })
            .await?;
        Ok(session)
    }

    /// A script, on the keys of this session's domain.
    async fn run(
        &self,
        script: &'static Script,
        arguments: impl Fn(&mut Cmd, LineNumber) + Sync,
    ) -> Result<Value> {
        let question = Question::Script(script, &arguments);
        self.store.ask(self.domain, Some(&self.listening), question).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Session for RedisSession {
    fn id(&self) -> SessionId {
        self.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let called: Vec<_> = {
            let remembered = self.known();
            known.iter().map(|claim| remembered.called(&self.names, &claim.key)).collect()
        };
        let turn = u128::from(self.clock.boot().as_nanos()) / self.ttl.as_nanos().max(1) % EXTENDED_EVERY;
        let answer = self
            .run(&scripts::RENEW, |command, _| {
                command.arg(1).arg(&self.key).arg(millis(self.ttl)).arg(self.kept.whole);
                for (claim, called) in known.iter().zip(&called) {
                    let extend = u128::from(claim.ticket.0) % EXTENDED_EVERY == turn;
                    command.arg(claim.ticket.0).arg(&called.name).arg(u8::from(extend));
                }
            })
            .await;
        let answer = match answer {
            // Its keys are on two nodes just now. The session itself can be found, and what it holds cannot be lost to anybody
            // meanwhile: no script decides anything there before all of them are in one place.
            Err(error) if matches!(redirection(&error), Some(Redirection::Moving(_))) => {
                let lives = self.store.keep_alive(self.domain, &self.key, millis(self.ttl)).await?;
                let unknown = lives.then(|| Renewal::new(vec![Standing::Unknown; known.len()]));
                return unknown.ok_or_else(|| Error::session_lost(Reason::SessionEnded));
            }
            answer => answer?,
        };
        match reply::standings(&answer, known.len())? {
            Some(standings) => Ok(Renewal::new(standings)),
            None => Err(Error::session_lost(Reason::SessionEnded)),
        }
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let (called, fence, is_first) = self.known().claims(&self.names, claim);
        // An idle record is its fence alone, and the grant's token one above it.
        let foreseen = fence.and_then(|fence| Some((fence, Held::foreseen(claim, fence.token + 1)?)));
        let asked = entry::asked(claim, &called.name, self.kept)?;
        let on_line = AtomicU64::new(0);
        let answer = self
            .run(&scripts::CLAIM, |command, line| {
                on_line.store(line.0, Ordering::Relaxed);
                command.arg(2).arg(&self.key).arg(&called.lock).arg(&asked);
                if let Some((fence, held)) = foreseen.as_ref().filter(|(fence, _)| fence.line == line) {
                    command.arg(fence.token).arg(held.record(self.id, claim.ticket)).arg(self.kept.used);
                }
            })
            .await;
        let line = LineNumber(on_line.into_inner());
        let answer = answer.inspect_err(|error| {
            if is_first && error.took_effect() == Effect::NotApplied {
                self.known().gone(&claim.key, claim.ticket);
            }
        })?;
        let claimed = reply::claimed(&answer, foreseen.map(|(_, held)| held.token));
        match &claimed {
            Ok(Claimed::Granted { token, .. }) => {
                let fence = Fence { token: token.get(), line };
                self.known().granted(claim, Held::foreseen(claim, fence.token), fence);
                // It does not end with the session, so it is not the session's to end.
                if let Term::Fixed(_) = claim.term {
                    self.known().gone(&claim.key, claim.ticket);
                }
            }
            // The script answered, and kept nothing of it.
            Ok(Claimed::Busy(_)) => self.known().gone(&claim.key, claim.ticket),
            Err(error) if error.took_effect() == Effect::NotApplied => {
                self.known().gone(&claim.key, claim.ticket);
            }
            Ok(_) | Err(_) => {}
        }
        claimed
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let (called, held) = self.known().releases(&self.names, claim);
        let uncertain = certainty == Certainty::MaybeInFlight;
        let held = held.filter(|_| !uncertain);
        let returned = entry::returned(claim.ticket, uncertain, &called.name, self.kept);
        let answer = self
            .run(&scripts::RELEASE, |command, _| {
                command.arg(2).arg(&self.key).arg(&called.lock).arg(&returned);
                if let Some(held) = &held {
                    command.arg(held.record(self.id, claim.ticket)).arg(held.token);
                }
            })
            .await?;
        let released = reply::released(&answer)?;
        self.known().gone(&claim.key, claim.ticket);
        Ok(released)
    }

    async fn close(&self) -> Result<()> {
        let names = self.known().names_in_use();
        let mut chunks = names.chunks(CLOSED_AT_ONCE);
        // Also without a claim: it ends the session itself.
        let mut chunk = Some(chunks.next().unwrap_or_default());
        while let Some(names) = chunk {
            self.run(&scripts::CLOSE, |command, _| {
                command.arg(1).arg(&self.key).arg(self.kept.whole).arg(names);
            })
            .await?;
            chunk = chunks.next();
        }
        self.listening.leave().await
    }
}

impl fmt::Debug for RedisSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSession({} at {})", self.id, self.store.endpoint())
    }
}
