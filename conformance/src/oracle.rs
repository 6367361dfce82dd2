//! The lock table as the oracle: random commands, through a store and through the table alone.
//!
//! The table is the specification of every store. Whatever a store answers to a command, who holds and who waits after it, how
//! tokens rise and which grants are told of has to be what the table says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::table::{
    Applied, Command, Input, KeyRecord, News, Outcome, Request, SessionCommand, SessionOutcome, SessionRecord,
};
use lock_core::{
    Backend, Certainty, Claim, ClaimRef, Claimed, Clock, Domain, Error, ErrorKind, Event, EventSink,
    FencingToken, HolderInfo, LockKey, Mode, Permit, Session, SessionId, SessionOptions, Term, Ticket,
    VirtualClock,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::runtime::runtime;
pub use crate::timed::timed;
use crate::verdict::{Failure, Verdict, expect, expect_eq};

/// Every term is an odd number of milliseconds and time passes by even ones, so no look falls on a deadline: a store may
/// reckon in whole milliseconds, and whether the last one still counts is its own affair.
const TTL: Duration = Duration::from_millis(201);
const FIXED: Duration = Duration::from_millis(41);
const AT_LEAST: Duration = Duration::from_millis(25);
const CLIENTS: usize = 3;
const TICKETS: u64 = 7;

/// Drives a store and the table through random commands, and compares them after each.
///
/// `open` makes a client of one store, empty at first, that reads its time from the clock it is given; it is called again for
/// each further client. Without an engine: what is compared is the store alone.
///
/// # Errors
/// The shortest sequence of commands that was found to differ, and how.
pub fn compare_with_the_table<S>(
    cases: u32,
    open: impl Fn(VirtualClock) -> lock_core::Result<S>,
) -> Result<(), String>
where
    S: Fn() -> lock_core::Result<Arc<dyn Backend>>,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let commands = proptest::collection::vec(step(), 1..40);
    let played = runner.run(&commands, |steps| {
        let clock = VirtualClock::new();
        let fail = |failure: Failure| TestCaseError::fail(failure.to_string());
        let store = open(clock.clone()).map_err(|error| fail(error.into()))?;
        let runtime = runtime().map_err(fail)?;
        runtime.block_on(play(&steps, &clock, &store)).map_err(fail)
    });
    played.map_err(|error| error.to_string())
}

#[derive(Clone, Debug)]
enum Step {
    Claim { client: usize, ticket: u64, wait: bool },
    Release { client: usize, ticket: u64, certain: bool },
    Force { all: bool },
    Pass { millis: u64 },
    Renew { client: usize },
    Close { client: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || (0..CLIENTS, 1..TICKETS);
    prop_oneof![
        8 => (who(), any::<bool>()).prop_map(|((client, ticket), wait)| Step::Claim { client, ticket, wait }),
        5 => (who(), any::<bool>()).prop_map(|((client, ticket), certain)| Step::Release { client, ticket, certain }),
        1 => any::<bool>().prop_map(|all| Step::Force { all }),
        3 => (1..30_u64).prop_map(|half| Step::Pass { millis: 2 * half }),
        4 => (0..CLIENTS).prop_map(|client| Step::Renew { client }),
        1 => (0..CLIENTS).prop_map(|client| Step::Close { client }),
    ]
}

/// What a ticket stands for: a claim that is sent again is the same claim.
fn claim(key: &LockKey, ticket: u64) -> Claim {
    let (weight, capacity) = [(1, 2), (1, 2), (2, 2), (1, 3)][usize::try_from(ticket % 4).unwrap_or(0)];
    let permit = Permit::new(weight, capacity).unwrap_or(Permit::MUTEX);
    let mode = Mode::Permits { held: weight, of: capacity };
    let claim = Claim::new(key.clone(), Ticket(ticket), mode, permit);
    match ticket % 3 {
        0 => claim.term(Term::Fixed(FIXED)),
        1 => claim.term(Term::Session { at_least: AT_LEAST }),
        _ => claim,
    }
}

async fn play<S>(steps: &[Step], clock: &VirtualClock, store: &S) -> Verdict
where
    S: Fn() -> lock_core::Result<Arc<dyn Backend>>,
{
    let mut pair = Pair::new(clock, store).await?;
    for (number, step) in steps.iter().enumerate() {
        let context = |failure: Failure| failure.within(format_args!("step {number}, {step:?}"));
        pair.step(step).await.map_err(context)?;
        pair.look().await.map_err(context)?;
        pair.compare().await.map_err(context)?;
    }
    Ok(())
}

/// The store and the table, side by side.
struct Pair {
    key: LockKey,
    clock: VirtualClock,
    backend: Arc<dyn Backend>,
    clients: Vec<Client>,
    model: KeyRecord,
    /// The store's token for each of the table's.
    tokens: BTreeMap<FencingToken, FencingToken>,
}

struct Client {
    session: Arc<dyn Session>,
    record: SessionRecord,
    grants: Arc<Mutex<Vec<Ticket>>>,
    told: Vec<Ticket>,
    _backend: Arc<dyn Backend>,
}

impl Pair {
    async fn new<S>(clock: &VirtualClock, store: &S) -> Verdict<Pair>
    where
        S: Fn() -> lock_core::Result<Arc<dyn Backend>>,
    {
        let mut clients = Vec::new();
        // One more than play: it looks, and lives for ever.
        for number in 0..=CLIENTS {
            let ttl = if number == CLIENTS { TTL * 100_000 } else { TTL };
            clients.push(Client::open(store()?, clock, ttl).await?);
        }
        Ok(Pair {
            key: LockKey::new("k")?,
            clock: clock.clone(),
            backend: store()?,
            clients,
            model: KeyRecord::new(),
            tokens: BTreeMap::new(),
        })
    }

    async fn step(&mut self, step: &Step) -> Verdict {
        match *step {
            Step::Claim { client, ticket, wait } => {
                let claim = claim(&self.key, ticket).waiting(wait);
                self.claim(client, &claim).await.map(|_| ())
            }
            Step::Release { client, ticket, certain } => {
                let certainty = if certain { Certainty::Settled } else { Certainty::MaybeInFlight };
                self.release(client, Ticket(ticket), certainty).await
            }
            Step::Force { all } => {
                let held = self.model.holders().first().map(|holder| holder.token);
                let only = if all { None } else { held };
                let expected = self.apply(&Command::ForceRelease { only });
                let only = only.and_then(|token| self.tokens.get(&token).copied());
                let ended = self.backend.force_release(&self.key, only).await?;
                expect_eq("holds ended by force", Outcome::ForceReleased(ended), expected.outcome)
            }
            Step::Pass { millis } => {
                self.clock.advance(Duration::from_millis(millis));
                Ok(())
            }
            Step::Renew { client } => {
                let now = self.now();
                let client = &mut self.clients[client];
                client.record.apply(now, SessionCommand::EndIfExpired);
                let lives = client.record.apply(now, SessionCommand::Renew) != SessionOutcome::Ended;
                let renewed = client.session.renew(&[]).await;
                expect_eq("whether the session could be renewed", is_lost(&renewed), !lives)
            }
            Step::Close { client } => {
                let now = self.now();
                self.clients[client].record.apply(now, SessionCommand::End);
                Ok(self.clients[client].session.close().await?)
            }
        }
    }

    /// Whoever looks makes both settle what has died: a store may do that sooner, and none may do it later.
    async fn look(&mut self) -> Verdict {
        let claim =
            Claim::new(self.key.clone(), Ticket(1_000), Mode::Permits { held: 2, of: 2 }, Permit::new(2, 2)?);
        let granted = self.claim(CLIENTS, &claim).await?;
        if granted {
            self.release(CLIENTS, Ticket(1_000), Certainty::Settled).await?;
        }
        Ok(())
    }

    async fn claim(&mut self, client: usize, claim: &Claim) -> Verdict<bool> {
        let session = self.clients[client].session.clone();
        let expected = self.apply(&Command::Claim(Request::of(session.id(), claim))).outcome;
        let claimed = session.claim(claim).await;
        let same = match (&claimed, &expected) {
            (Ok(Claimed::Granted { token, .. }), Outcome::Granted { token: expected }) => {
                return self.pairs(*expected, *token).map(|()| true);
            }
            (Ok(Claimed::Queued { .. }), Outcome::Queued { .. })
            | (Ok(Claimed::Busy(_)), Outcome::Busy { .. }) => true,
            (Err(error), Outcome::SessionEnded) => matches!(error.kind(), ErrorKind::SessionLost(_)),
            (Err(error), Outcome::Withdrawn) => *error.kind() == ErrorKind::Withdrawn,
            (Err(error), Outcome::CapacityMismatch { in_force }) => {
                *error.kind() == ErrorKind::CapacityMismatch { in_force: *in_force }
            }
            _ => false,
        };
        expect(same, format_args!("{expected:?}"), format_args!("{claimed:?}")).map(|()| false)
    }

    async fn release(&mut self, client: usize, ticket: Ticket, certainty: Certainty) -> Verdict {
        let session = self.clients[client].session.clone();
        let expected = self.apply(&Command::Release { session: session.id(), ticket, certainty }).outcome;
        let released = session.release(&ClaimRef::new(self.key.clone(), ticket), certainty).await;
        // A store need not know any more what a session had that is over.
        if is_lost(&released) && !self.lives(session.id()) {
            return expect_eq(
                "what a lost session had",
                expected,
                Outcome::Released(lock_core::Released::Gone),
            );
        }
        expect_eq("the release", Outcome::Released(released?), expected)
    }

    /// A token of the table and the store's for the same grant: both rise together.
    fn pairs(&mut self, table: FencingToken, store: FencingToken) -> Verdict {
        if let Some(known) = self.tokens.get(&table) {
            return expect_eq("the token of a grant that is known", store, *known);
        }
        let below = self.tokens.range(..table).next_back().map(|(_, token)| *token);
        let above = self.tokens.range(table..).next().map(|(_, token)| *token);
        let rises = below.is_none_or(|below| below < store) && above.is_none_or(|above| store < above);
        expect(rises, format_args!("a token between {below:?} and {above:?}"), store)?;
        self.tokens.insert(table, store);
        Ok(())
    }

    async fn compare(&mut self) -> Verdict {
        let state = self.backend.inspect(&self.key).await?;
        let now = self.now();
        let alive = |session: SessionId| self.lives(session);
        let expected: Vec<_> =
            self.model.holders().iter().filter(|holder| KeyRecord::counts(holder, now, &alive)).collect();
        let names: Vec<_> = expected.iter().map(|holder| (holder.session, holder.ticket)).collect();
        let found: Vec<_> = state.holders.iter().map(|holder| (holder.session, holder.ticket)).collect();
        expect_eq("the holders, in the order of their grants", found, names)?;
        let pairs: Vec<_> =
            expected.iter().map(|holder| holder.token).zip(state.holders.iter().map(|it| it.token)).collect();
        let queue: Vec<_> = self
            .model
            .queue()
            .filter(|waiter| alive(waiter.session))
            .map(|waiter| (waiter.session, waiter.ticket))
            .collect();
        let found: Vec<_> = state.queue.iter().map(|waiter| (waiter.session, waiter.ticket)).collect();
        expect_eq("the waiters, first come first", found, queue)?;
        for (table, store) in pairs {
            self.pairs(table, store)?;
        }
        self.compare_events().await
    }

    /// Grants that were pushed, to each session that lives, in order. They may take a moment to arrive.
    async fn compare_events(&self) -> Verdict {
        if !self.backend.info().capabilities.push {
            return Ok(());
        }
        for client in self.clients.iter().filter(|client| self.lives(client.session.id())) {
            let heard = || client.grants.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for _ in 0..2_000 {
                if heard().len() >= client.told.len() {
                    break;
                }
                lock_core::SystemClock::new().sleep(Duration::from_millis(1)).await;
            }
            expect_eq("the grants that a session was told of", heard(), client.told.clone())?;
        }
        Ok(())
    }

    fn apply(&mut self, command: &Command) -> Applied {
        let now = self.now();
        let input = Input { now, proposed_token: self.clock.wall_micros() };
        let living: BTreeSet<_> = self
            .clients
            .iter()
            .map(|client| client.session.id())
            .filter(|&session| self.lives(session))
            .collect();
        let applied = self.model.apply(input, command, &|session| living.contains(&session));
        for notice in &applied.notices {
            if let News::Granted { .. } = notice.news {
                let to = self.clients.iter_mut().find(|client| client.session.id() == notice.session);
                to.into_iter().for_each(|client| client.told.push(notice.ticket));
            }
        }
        applied
    }

    fn lives(&self, session: SessionId) -> bool {
        let now = self.now();
        let member = self.clients.iter().find(|client| client.session.id() == session);
        member.is_some_and(|client| !client.record.is_ended() && now < client.record.expires_at())
    }

    fn now(&self) -> u64 {
        self.clock.boot().as_nanos() / 1_000
    }
}

impl Client {
    async fn open(backend: Arc<dyn Backend>, clock: &VirtualClock, ttl: Duration) -> Verdict<Client> {
        let grants: Arc<Mutex<Vec<Ticket>>> = Arc::default();
        let heard = grants.clone();
        let sink = EventSink::new(move |event| {
            if let Event::Granted { ticket, .. } = event {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(ticket);
            }
        });
        let info = HolderInfo::new(1);
        let options = SessionOptions::new(SessionId::random()?, Domain(0), ttl, info.clone());
        let session = backend.open(&options, sink).await?.session;
        let micros = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let record = SessionRecord::open(options.id, clock.boot().as_nanos() / 1_000, micros, info);
        Ok(Client { session, record, grants, told: Vec::new(), _backend: backend })
    }
}

fn is_lost<T>(result: &Result<T, Error>) -> bool {
    result.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::SessionLost(_)))
}
