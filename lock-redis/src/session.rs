//! [`RedisSession`]: one unit of liveness, and its claims.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future;
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Clock, Domain, Effect, Error, ErrorKind, EventSink, Reason,
    Released, Renewal, Result, Session, SessionId, SessionOptions, Standing, SystemClock, Term, within,
};
use redis::{Cmd, Value};

use crate::entry::{self, Held};
use crate::failure::is_moving;
use crate::kept::{Kept, millis};
use crate::known::{Called, Fence, Known};
use crate::names::Names;
use crate::reply;
use crate::scripts::{self, LineNumber, Script};
use crate::store::{Listening, Question, Store};

/// Each record is given more time once in so many TTLs: far less than [`KEPT_TTLS`], and far from each heartbeat.
const EXTENDED_EVERY: u128 = 4;

/// How long one attempt to renew may take at least.
const SHORTEST_TRY: Duration = Duration::from_millis(250);

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
        let opened = session
            .run_and_listen(&scripts::OPEN, |command, _| {
                command.arg(1).arg(&session.key).arg(millis(ttl)).arg(&info);
            })
            .await;
        match opened {
            // What is new is made where the slot will be.
            Err(error) if is_moving(&error) => session.open_on_the_move(&info).await?,
            opened => drop(opened?),
        }
        Ok(session)
    }

    /// As `open.lua` does it, while the slot is moved to another node.
    async fn open_on_the_move(&self, info: &str) -> Result<()> {
        let mut command = Cmd::new();
        command.arg("SET").arg(&self.key).arg(format!("-{info}")).arg("NX").arg("PX").arg(millis(self.ttl));
        if self.store.ask_also_on_the_move(self.domain, &command).await? == Value::Nil {
            // An earlier copy of this call has made it.
            self.expire(&self.key, millis(self.ttl), false).await?;
        }
        Ok(())
    }

    async fn renew_once(&self, known: &[ClaimRef]) -> Result<Renewal> {
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
            Err(error) if is_moving(&error) => return self.renew_on_the_move(&called).await,
            answer => answer?,
        };
        match reply::standings(&answer, known.len())? {
            Some(standings) => Ok(Renewal::new(standings)),
            None => Err(Error::session_lost(Reason::SessionEnded)),
        }
    }

    /// Its keys are on two nodes just now. Each can be found, and given more time; and what the session holds cannot be lost to
    /// anybody meanwhile, for no script decides anything there before all of them are in one place.
    async fn renew_on_the_move(&self, known: &[Arc<Called>]) -> Result<Renewal> {
        let ttl = millis(self.ttl);
        let answer = self.expire(&self.key, ttl, false).await?;
        if reply::number(&answer) != Some(1) {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        // None of what follows need be there, and each has long to go: what fails is done by a later renewal.
        let withdrawn = [(self.names.withdrawn(self.id), ttl + 1_000)];
        let records = known.iter().flat_map(|called| {
            let queue = [self.names.queue(&called.name), self.names.waiters(&called.name)];
            [called.lock.clone()].into_iter().chain(queue).map(|name| (name, self.kept.whole))
        });
        let kept = withdrawn.into_iter().chain(records);
        let kept = kept.map(|(name, millis)| async move { drop(self.expire(&name, millis, true).await) });
        within(&SystemClock::new(), self.ttl / 12, future::join_all(kept)).await;
        Ok(Renewal::new(vec![Standing::Unknown; known.len()]))
    }

    /// Gives a key another time to live, or only a longer one, wherever it is just now.
    async fn expire(&self, key: &str, millis: u64, only_longer: bool) -> Result<Value> {
        let mut command = Cmd::new();
        command.arg("PEXPIRE").arg(key).arg(millis);
        if only_longer {
            command.arg("GT");
        }
        self.store.ask_also_on_the_move(self.domain, &command).await
    }

    /// A script, on the keys of this session's domain.
    async fn run(
        &self,
        script: &'static Script,
        arguments: impl Fn(&mut Cmd, LineNumber) + Sync,
    ) -> Result<Value> {
        self.store.ask(self.domain, None, Question::Script(script, &arguments)).await
    }

    /// One of which news may come: not before they would be heard.
    async fn run_and_listen(
        &self,
        script: &'static Script,
        arguments: impl Fn(&mut Cmd, LineNumber) + Sync,
    ) -> Result<Value> {
        self.store.ask(self.domain, Some(&self.listening), Question::Script(script, &arguments)).await
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
        // A node that hangs may have a successor, and there has to be time to ask for it.
        let limit = (self.ttl / 6).max(SHORTEST_TRY.min(self.ttl / 4));
        let (renewed, ()) = future::join(
            within(&SystemClock::new(), limit, self.renew_once(known)),
            self.store.make_sure_of_news(&self.listening, limit),
        )
        .await;
        renewed.unwrap_or_else(|| {
            let message =
                format!("no answer within {limit:?}, in which a lease of {:?} has to be renewed", self.ttl);
            Err(Error::new(ErrorKind::TimedOut, message).effect(Effect::Unknown))
        })
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let (called, fence, is_first) = self.known().claims(&self.names, claim);
        // An idle record is its fence alone, and the grant's token one above it.
        let foreseen = fence.and_then(|fence| Some((fence, Held::foreseen(claim, fence.token + 1)?)));
        let asked = entry::asked(claim, &called.name, self.kept)?;
        // Before it is sent: whatever the server has become since, it was not that yet.
        let (on_line, sent) = (AtomicU64::new(0), self.clock.boot());
        let answer = self
            .run_and_listen(&scripts::CLAIM, |command, line| {
                on_line.store(line.0, Ordering::Relaxed);
                command.arg(2).arg(&self.key).arg(&called.lock).arg(&asked);
                if let Some((fence, held)) = foreseen.as_ref().filter(|(fence, _)| fence.is_fresh(line, sent))
                {
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
                let fence = Fence { token: token.get(), line, at: sent };
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
