//! [`RedisSession`]: one unit of liveness, and its claims.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Certainty, Claim, ClaimRef, Claimed, Clock, Error, Reason, Released, Renewal, Result, Session, SessionId,
    SessionOptions, SystemClock,
};
use redis::Cmd;

use crate::ears::Ear;
use crate::entry::{self, Held};
use crate::known::Known;
use crate::link::Link;
use crate::names::Names;
use crate::reply;
use crate::scripts;

/// Records in use are kept for so many TTLs behind the last time that somebody renewed them.
pub(crate) const KEPT_TTLS: u32 = 10;

/// Each record is given more time once in so many TTLs: far less than [`KEPT_TTLS`], and far from each heartbeat.
const EXTENDED_EVERY: u128 = 4;

/// How many keys one script of a closing session looks at: others wait for it meanwhile.
const CLOSED_AT_ONCE: usize = 50;

pub(crate) struct RedisSession {
    link: Arc<Link>,
    names: Names,
    id: SessionId,
    /// Its key in the store.
    key: String,
    ttl: Duration,
    kept: Kept,
    clock: SystemClock,
    known: Mutex<Known>,
    _ear: Ear,
}

/// For how long records stay that nobody renews, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) idle: u64,
    pub(crate) used: u64,
}

impl Kept {
    pub(crate) fn new(idle_after: Duration, ttl: Duration) -> Kept {
        Kept { idle: millis(idle_after), used: millis(ttl * KEPT_TTLS) }
    }

    /// When a record goes whose fence this is, in milliseconds since 1970. Idle, it is then behind the clock by `idle`; in use, it
    /// was behind it by no more than that when it was granted, so that `used` is left.
    fn idle_until(self, fence: u64) -> u64 {
        fence / 1000 + self.idle
    }

    fn used_until(self, fence: u64) -> u64 {
        self.idle_until(fence) + self.idle + self.used
    }
}

impl RedisSession {
    pub(crate) async fn open(
        link: &Arc<Link>,
        names: &Names,
        kept: Kept,
        options: &SessionOptions,
        ear: Ear,
    ) -> Result<RedisSession> {
        let key = names.session(options.id);
        let info = options.info.encoded();
        link.run(&scripts::OPEN, |command| {
            command.arg(1).arg(&key).arg(millis(options.ttl)).arg(&info);
        })
        .await?;
        Ok(RedisSession {
            link: link.clone(),
            names: names.clone(),
            id: options.id,
            key,
            ttl: options.ttl,
            kept,
            clock: SystemClock::new(),
            known: Mutex::default(),
            _ear: ear,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, command: &mut Cmd) {
        command.arg(self.kept.idle).arg(self.kept.used);
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
            .link
            .run(&scripts::RENEW, |command| {
                command.arg(1).arg(&self.key).arg(millis(self.ttl));
                self.keep(command);
                for (claim, called) in known.iter().zip(&called) {
                    let extend = u128::from(claim.ticket.0) % EXTENDED_EVERY == turn;
                    command.arg(claim.ticket.0).arg(&called.name).arg(u8::from(extend));
                }
            })
            .await?;
        match reply::standings(&answer, known.len())? {
            Some(standings) => Ok(Renewal::new(standings)),
            None => Err(Error::session_lost(Reason::SessionEnded)),
        }
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let (called, fence) = self.known().claims(&self.names, claim);
        // An idle record is its fence alone, and the grant's token one above it.
        let foreseen = fence.and_then(|fence| Some((fence, Held::foreseen(claim, fence + 1)?)));
        let asked = entry::asked(self.id, claim);
        let rest = entry::rest(claim.mode, claim.note.as_ref());
        let answer = self
            .link
            .run(&scripts::CLAIM, |command| {
                command.arg(2).arg(&self.key).arg(&called.lock);
                match &foreseen {
                    Some((fence, held)) => command
                        .arg(fence)
                        .arg(held.record(self.id, claim.ticket))
                        .arg(self.kept.used_until(held.token)),
                    None => command.arg("").arg("").arg(""),
                };
                command.arg(&asked).arg(&rest).arg(&called.name);
                self.keep(command);
            })
            .await?;
        let claimed = reply::claimed(&answer, foreseen.map(|(_, held)| held.token))?;
        match &claimed {
            Claimed::Granted { token, .. } => {
                self.known().granted(claim, Held::foreseen(claim, token.get()), token.get());
            }
            Claimed::Busy(_) => self.known().gone(&claim.key, claim.ticket),
            _ => {}
        }
        Ok(claimed)
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let (called, held) = self.known().releases(&self.names, claim);
        let settled = certainty == Certainty::Settled;
        let held = held.filter(|_| settled);
        let answer = self
            .link
            .run(&scripts::RELEASE, |command| {
                command.arg(2).arg(&self.key).arg(&called.lock);
                match &held {
                    Some(held) => command
                        .arg(held.record(self.id, claim.ticket))
                        .arg(held.token)
                        .arg(self.kept.idle_until(held.token)),
                    None => command.arg("").arg("").arg(""),
                };
                command
                    .arg(format!("{} {} {}", self.id, claim.ticket.0, u8::from(!settled)))
                    .arg(&called.name);
                self.keep(command);
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
            self.link
                .run(&scripts::CLOSE, |command| {
                    command.arg(1).arg(&self.key);
                    self.keep(command);
                    command.arg(names);
                })
                .await?;
            chunk = chunks.next();
        }
        Ok(())
    }
}

impl fmt::Debug for RedisSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisSession({} at {})", self.id, self.link.endpoint())
    }
}

/// Rounded up: nobody's lease is shorter than was asked.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
