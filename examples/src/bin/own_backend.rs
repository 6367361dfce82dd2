//! A store that keeps the whole contract by itself, without the lock table: the smallest that can be.
//!
//! It has no queue and tells nobody anything, so it claims to be neither fair nor pushing: the engine polls it. Before
//! you write one like it, look at `own_store.rs`: most stores are better off with the table.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fencepost::backend::{
    Backend, BootTime, Certainty, Claim, ClaimRef, Claimed, Clock, EventSink, Opened, Proof, Query, Released,
    Renewal, Session, SessionOptions, Standing, SystemClock, Ticket, async_trait,
};
use fencepost::{
    AcquireOptions, BackendInfo, Busy, Capabilities, Cursor, Error, ErrorKind, FencingToken, HolderState,
    LockClient, LockKey, LockState, Mode, Page, Reason, Result, SessionId, Wait,
};

const POLL: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Default)]
struct Board(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    keys: BTreeMap<LockKey, Row>,
    sessions: HashMap<SessionId, Life>,
}

#[derive(Debug, Default)]
struct Row {
    last_token: u64,
    holders: Vec<Hold>,
}

#[derive(Clone, Debug)]
struct Hold {
    session: SessionId,
    ticket: Ticket,
    token: FencingToken,
    mode: Mode,
    weight: u32,
    capacity: u32,
}

#[derive(Debug)]
struct Life {
    until: BootTime,
    waiting: HashSet<ClaimRef>,
}

impl Board {
    /// Everything below happens under this one lock: that is what makes every step of the contract atomic. Whoever
    /// died is removed first, with all that it held, and never comes back.
    fn rows(&self) -> MutexGuard<'_, Rows> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemClock::new().boot();
        let Rows { keys, sessions } = &mut *rows;
        sessions.retain(|_, life| life.until > now);
        for row in keys.values_mut() {
            row.holders.retain(|hold| sessions.contains_key(&hold.session));
        }
        rows
    }
}

#[async_trait]
impl Backend for Board {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("board", "board:", Capabilities::new())
    }

    async fn open(&self, options: &SessionOptions, _sink: EventSink) -> Result<Opened> {
        let until = SystemClock::new().boot() + options.ttl;
        self.rows().sessions.entry(options.id).or_insert(Life { until, waiting: HashSet::new() });
        let session = Seat { board: self.clone(), id: options.id, ttl: options.ttl };
        Ok(Opened::new(Arc::new(session), options.ttl))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        let mut state = LockState::idle(key.clone());
        if let Some(row) = self.rows().keys.get(key) {
            let shown = |hold: &Hold| HolderState::new(hold.session, hold.ticket, hold.token, hold.mode);
            state.holders = row.holders.iter().map(shown).collect();
            state.fence = FencingToken::new(row.last_token).ok();
        }
        Ok(state)
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        let rows = self.rows();
        let after = |key: &LockKey| query.after.as_ref().is_none_or(|after| key.as_str() > after.as_str());
        let used = rows.keys.iter().filter(|(key, row)| query.matches(key) && !row.holders.is_empty());
        let keys: Vec<_> = used.map(|(key, _)| key.clone()).filter(after).take(query.limit).collect();
        let next = keys.last().filter(|_| keys.len() == query.limit).map(|key| Cursor::new(key.as_str()));
        Ok(Page::new(keys, next))
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let mut rows = self.rows();
        let Some(row) = rows.keys.get_mut(key) else { return Ok(0) };
        let before = row.holders.len();
        row.holders.retain(|hold| only.is_some_and(|token| token != hold.token));
        Ok(before - row.holders.len())
    }
}

#[derive(Debug)]
struct Seat {
    board: Board,
    id: SessionId,
    ttl: Duration,
}

#[async_trait]
impl Session for Seat {
    fn id(&self) -> SessionId {
        self.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        let mut rows = self.board.rows();
        let Rows { keys, sessions } = &mut *rows;
        let life = sessions.get_mut(&self.id).ok_or_else(over)?;
        life.until = SystemClock::new().boot() + self.ttl;
        let standing =
            |claim: &ClaimRef| match keys.get(&claim.key).and_then(|row| row.of(self.id, claim.ticket)) {
                Some(hold) => Standing::Holds { token: hold.token, proof: Proof::NONE },
                None if life.waiting.contains(claim) => Standing::Waits { recheck_in: Some(POLL) },
                None => Standing::Gone,
            };
        Ok(Renewal::new(known.iter().map(standing).collect()))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let mut rows = self.board.rows();
        let Rows { keys, sessions } = &mut *rows;
        let life = sessions.get_mut(&self.id).ok_or_else(over)?;
        let row = keys.entry(claim.key.clone()).or_default();
        if let Some(hold) = row.of(self.id, claim.ticket) {
            return Ok(Claimed::Granted { token: hold.token, proof: Proof::NONE });
        }
        let (weight, capacity) = (claim.permit.weight(), claim.permit.capacity());
        if let Some(other) = row.holders.iter().find(|hold| hold.capacity != capacity) {
            let kind = ErrorKind::CapacityMismatch { in_force: other.capacity };
            return Err(Error::new(kind, "mutexes and semaphores cannot share a key"));
        }
        let taken: u64 = row.holders.iter().map(|hold| u64::from(hold.weight)).sum();
        if taken + u64::from(weight) > u64::from(capacity) {
            let busy = Busy::new().under(row.holders.first().map(|hold| hold.token));
            if !claim.wait {
                return Ok(Claimed::Busy(busy));
            }
            life.waiting.insert(claim.reference());
            return Ok(Claimed::Queued { recheck_in: Some(POLL), busy });
        }
        let token = FencingToken::new((row.last_token + 1).max(SystemClock::new().wall_micros()))?;
        row.last_token = token.get();
        let (session, ticket, mode) = (self.id, claim.ticket, claim.mode);
        row.holders.push(Hold { session, ticket, token, mode, weight, capacity });
        life.waiting.remove(&claim.reference());
        Ok(Claimed::Granted { token, proof: Proof::NONE })
    }

    /// A claim here is over when its call is: no copy can still be on its way, so that the certainty does not matter.
    async fn release(&self, claim: &ClaimRef, _certainty: Certainty) -> Result<Released> {
        let mut rows = self.board.rows();
        let Rows { keys, sessions } = &mut *rows;
        let waited = sessions.get_mut(&self.id).is_some_and(|life| life.waiting.remove(claim));
        let holders = keys.get_mut(&claim.key).map(|row| &mut row.holders);
        let held = holders.is_some_and(|holders| {
            let before = holders.len();
            holders.retain(|hold| (hold.session, hold.ticket) != (self.id, claim.ticket));
            holders.len() < before
        });
        Ok(if waited || held { Released::Done } else { Released::Gone })
    }

    async fn close(&self) -> Result<()> {
        self.board.rows().sessions.remove(&self.id);
        Ok(())
    }
}

impl Row {
    fn of(&self, session: SessionId, ticket: Ticket) -> Option<&Hold> {
        self.holders.iter().find(|hold| (hold.session, hold.ticket) == (session, ticket))
    }
}

fn over() -> Error {
    Error::session_lost(Reason::SessionEnded)
}

#[tokio::main]
async fn main() -> Result<()> {
    let board = Board::default();
    let client = |name: &str| {
        LockClient::builder(Arc::new(board.clone())).ttl(Duration::from_millis(300)).name(name).build()
    };
    let (one, other) = (client("one")?, client("other")?);

    let guard = one.mutex("k")?.acquire().await?;
    println!("one holds it under token {}", guard.token());
    println!("other finds it busy: {}", other.mutex("k")?.try_acquire().await?.is_err());
    tokio::time::sleep(Duration::from_millis(700)).await;
    println!("two TTLs later it was renewed: held is {}", guard.state().is_held());

    drop(guard); // Released in the background; the other one polls.
    let patient = AcquireOptions::new().wait(Wait::AtMost(Duration::from_secs(5)));
    let next = other.mutex("k")?.acquire_with(&patient).await?;
    println!("other waited and holds it under token {}", next.token());

    one.force_release("k", None).await?;
    println!("ended by force, and other is told: {}", next.lost().await);
    Ok(())
}
