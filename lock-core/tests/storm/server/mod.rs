//! [`Server`]: a store of locks over the lock table, with everything that can go wrong between it and its clients.

mod backend;
mod calls;
mod chaos;
mod handing;
mod members;
mod watching;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use lock_core::{
    BootTime, Capabilities, Claim, ClaimRef, Claimed, Clock, Event, FencingToken, LockKey, Released, Result,
    SessionId, Standing, Ticket, VirtualClock,
};

pub(crate) use self::backend::HostileBackend;
use self::handing::Handing;
pub(crate) use self::members::Members;
use self::watching::Watching;
use crate::network::Network;
use crate::weather::{Cut, Weather};
use crate::world::World;

/// Who is told what.
pub(crate) type Told = Vec<(SessionId, Event)>;

/// The readings that one command is judged by, and who lives.
pub(crate) struct Now<'a> {
    pub(crate) micros: u64,
    pub(crate) token: u64,
    pub(crate) members: &'a Members,
}

impl Now<'_> {
    pub(crate) fn lives(&self, session: SessionId) -> bool {
        self.members.lives(session, self.micros)
    }
}

/// How a store keeps its locks: what differs between one that hands over and one whose clients watch.
pub(crate) trait Table: Send {
    fn claim(&mut self, now: &Now<'_>, session: SessionId, claim: &Claim) -> (Result<Claimed>, Told);
    fn release(
        &mut self,
        now: &Now<'_>,
        session: SessionId,
        claim: &ClaimRef,
        settled: bool,
    ) -> (Released, Told);
    fn standing(&self, now: &Now<'_>, session: SessionId, claim: &ClaimRef) -> Standing;
    /// Who has to hear once more that this claim still waits.
    fn remind(&self, _claim: &ClaimRef) -> Told {
        Told::new()
    }
    /// Whether this claim holds, or waits for, the key for a fixed time.
    fn is_fixed(&self, _key: &LockKey, _session: SessionId, _ticket: Ticket) -> bool {
        false
    }
    /// Ends holds by force; with the tokens of those that it ended.
    fn force_release(
        &mut self,
        now: &Now<'_>,
        key: &LockKey,
        only: Option<FencingToken>,
    ) -> (Vec<FencingToken>, Told);
    /// Loses a key's grants, or all that is known of it but its fence; with the tokens of the grants.
    fn forget(&mut self, now: &Now<'_>, key: &LockKey, all: bool) -> Vec<FencingToken>;
    /// Removes what the dead have left, and tells whoever is next.
    fn settle(&mut self, now: &Now<'_>) -> Told;
    fn keys(&self) -> Vec<LockKey>;
    /// Who counts as a holder or waits, as a list of words.
    fn left(&self, now: &Now<'_>, key: &LockKey) -> Vec<String>;
    fn holders(&self, now: &Now<'_>, key: &LockKey) -> Vec<(SessionId, Ticket, FencingToken)>;
}

/// Which kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A release grants to the next waiter, who is told.
    HandsOver,
    /// The queue is the lock; whoever waits watches those ahead. Holders hear of waiters, or not.
    Watched { wanted: bool },
}

#[derive(Clone)]
pub(crate) struct Server {
    clock: VirtualClock,
    net: Network,
    shape: Shape,
    verify_chunk: usize,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    rng: Rng,
    weather: Weather,
    table: Box<dyn Table>,
    members: Members,
    /// Grants that the store itself has broken, and since when.
    broken: BTreeMap<(LockKey, FencingToken), BootTime>,
    /// Copies of claims that have not arrived yet.
    on_their_way: BTreeMap<(SessionId, Ticket), usize>,
    tombstoned: std::collections::BTreeSet<(SessionId, Ticket)>,
    /// What an engine did that no engine may do.
    violations: Vec<String>,
    /// Sessions whose client has seen their end: since then, nothing may renew them.
    abandoned: BTreeMap<SessionId, BootTime>,
    sent: BTreeMap<&'static str, usize>,
    longest_ttl: Duration,
    same_instant: (BootTime, usize),
    steady_renewals: bool,
    /// Sessions whose client is cut off, until when.
    cut_off: BTreeMap<SessionId, (BootTime, Cut)>,
    /// When each claim was last asked about, if anybody wants to know, and the longest time between two.
    gaps: Option<Gaps>,
    /// The TTL that the next renewal brings.
    next_ttl: Option<Duration>,
}

#[derive(Default)]
struct Gaps {
    last: BTreeMap<(SessionId, Ticket), BootTime>,
    longest: Duration,
}

impl Server {
    pub(crate) fn new(
        world: &World,
        shape: Shape,
        weather: Weather,
        verify_chunk: usize,
        seed: u64,
    ) -> Server {
        let table: Box<dyn Table> = match shape {
            Shape::HandsOver => Box::<Handing>::default(),
            Shape::Watched { wanted } => Box::new(Watching::new(wanted)),
        };
        let steady_renewals = weather.steady_renewals;
        let state = State {
            rng: Rng::with_seed(seed),
            weather,
            table,
            members: Members::default(),
            broken: BTreeMap::new(),
            on_their_way: BTreeMap::new(),
            tombstoned: std::collections::BTreeSet::new(),
            violations: Vec::new(),
            abandoned: BTreeMap::new(),
            sent: BTreeMap::new(),
            longest_ttl: Duration::ZERO,
            same_instant: (BootTime::ZERO, 0),
            steady_renewals,
            cut_off: BTreeMap::new(),
            gaps: None,
            next_ttl: None,
        };
        Server {
            clock: world.clock.clone(),
            net: world.net.clone(),
            shape,
            verify_chunk,
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn backend(&self) -> Arc<HostileBackend> {
        HostileBackend::new(self.clone())
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = Capabilities::new().fair().push().verify_chunk(self.verify_chunk);
        match self.shape {
            Shape::HandsOver => capabilities.fixed_terms(),
            Shape::Watched { .. } => capabilities,
        }
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        let mut state = self.state();
        state.steady_renewals &= weather.steady_renewals;
        state.weather = weather;
        state.cut_off.clear();
    }

    pub(crate) fn watch_gaps(&self) {
        self.state().gaps = Some(Gaps::default());
    }

    /// The longest time for which a claim was not asked about.
    pub(crate) fn longest_gap(&self) -> Duration {
        let now = self.clock.boot();
        let state = self.state();
        let Gaps { last, longest } = state.gaps.as_ref().unwrap();
        last.values().map(|&at| now.since(at)).fold(*longest, Duration::max)
    }

    /// The next renewal brings this TTL.
    pub(crate) fn shorten(&self, ttl: Duration) {
        self.state().next_ttl = Some(ttl);
    }

    pub(crate) fn violation(&self, what: &str) {
        let at = self.clock.boot();
        self.state().violations.push(format!("{at:?}: {what}"));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Since when the store has broken this grant.
    pub(crate) fn broken_at(&self, key: &LockKey, token: FencingToken) -> Option<BootTime> {
        self.state().broken.get(&(key.clone(), token)).copied()
    }

    /// The longest TTL that was ever in force.
    pub(crate) fn longest_ttl(&self) -> Duration {
        self.state().longest_ttl
    }

    /// Whether a renewal that verifies everything was answered at least once per TTL in every session that lived.
    pub(crate) fn tells_in_time(&self) -> bool {
        self.verify_chunk >= 1000 || self.state().steady_renewals
    }

    /// A client has seen the end of this session.
    pub(crate) fn abandoned(&self, session: SessionId) {
        let now = self.clock.boot();
        self.state().abandoned.entry(session).or_insert(now);
    }

    /// How many messages of a kind were sent.
    pub(crate) fn sent(&self, kind: &'static str) -> usize {
        self.state().sent.get(kind).copied().unwrap_or_default()
    }

    /// What is held or waited for, in words.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut state = self.state();
        let keys = state.table.keys();
        self.judge(&mut state, |table, now| keys.iter().flat_map(|key| table.left(now, key)).collect())
    }

    fn judge<T>(&self, state: &mut State, ask: impl FnOnce(&mut dyn Table, &Now<'_>) -> T) -> T {
        let State { table, members, .. } = state;
        let now = Now { micros: self.micros(), token: self.clock.wall_micros(), members };
        ask(&mut **table, &now)
    }

    fn micros(&self) -> u64 {
        self.clock.boot().as_nanos() / 1000
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({:?})", self.shape)
    }
}
