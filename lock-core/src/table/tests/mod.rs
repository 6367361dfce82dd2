//! The table's contract, one test for each sentence of it, by topic.

mod ends;
mod queue;
mod releases;
mod rule;
mod terms;
mod tokens;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use super::{Applied, Command, Input, KeyRecord, News, Notice, Outcome, Request};
use crate::backend::{Certainty, Released, SessionId, Term, Ticket};
use crate::mode::{Mode, Permit};
use crate::token::FencingToken;

/// One key, a clock that the test sets, and sessions of which some have died.
///
/// Every command also checks what holds of all of them: `changed` tells the truth, and the record's encoding comes
/// back as the same record.
struct Scene {
    record: KeyRecord,
    now: u64,
    dead: BTreeSet<SessionId>,
    notices: Vec<Notice>,
    asked: Vec<SessionId>,
}

impl Scene {
    fn new() -> Scene {
        Scene::of(KeyRecord::new())
    }

    fn of(record: KeyRecord) -> Scene {
        Scene { record, now: 1_000, dead: BTreeSet::new(), notices: Vec::new(), asked: Vec::new() }
    }

    fn at(&mut self, now: u64) -> &mut Scene {
        self.now = now;
        self
    }

    fn kill(&mut self, session: u128) {
        self.dead.insert(SessionId::from_u128(session));
    }

    fn input(&self) -> Input {
        Input { now: self.now, proposed_token: self.now }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let before = self.record.encode();
        let asked = RefCell::new(Vec::new());
        let alive = |session| {
            asked.borrow_mut().push(session);
            !self.dead.contains(&session)
        };
        let input = self.input();
        let Applied { outcome, notices, changed } = self.record.apply(input, command, &alive);
        let after = self.record.encode();
        assert_eq!(changed, before != after, "{command:?} says changed: {changed}");
        assert_eq!(KeyRecord::decode(&after).as_ref(), Ok(&self.record));
        self.notices = notices;
        self.asked = asked.into_inner();
        outcome
    }

    fn claim(&mut self, request: Request) -> Outcome {
        self.apply(&Command::Claim(request))
    }

    fn release(&mut self, session: u128, ticket: u64) -> Outcome {
        self.give_back(session, ticket, Certainty::Settled)
    }

    fn withdraw(&mut self, session: u128, ticket: u64) -> Outcome {
        self.give_back(session, ticket, Certainty::MaybeInFlight)
    }

    fn give_back(&mut self, session: u128, ticket: u64, certainty: Certainty) -> Outcome {
        let (session, ticket) = (SessionId::from_u128(session), Ticket(ticket));
        self.apply(&Command::Release { session, ticket, certainty })
    }

    fn force_release(&mut self, only: Option<FencingToken>) -> Outcome {
        self.apply(&Command::ForceRelease { only })
    }

    fn settle(&mut self) {
        assert_eq!(self.apply(&Command::Settle), Outcome::Settled);
    }

    /// Sessions of the entries that count now, in order.
    fn holders(&self) -> Vec<u128> {
        let alive = |session| !self.dead.contains(&session);
        let counting = self.record.holders().iter().filter(|h| KeyRecord::counts(h, self.now, &alive));
        counting.map(|holder| holder.session.as_u128()).collect()
    }

    fn waiters(&self) -> Vec<u128> {
        self.record.queue().map(|waiter| waiter.session.as_u128()).collect()
    }

    /// The sessions that the last command told of a grant.
    fn told_of_grants(&self) -> Vec<u128> {
        self.told(|news| matches!(news, News::Granted { .. }))
    }

    fn told(&self, which: impl Fn(News) -> bool) -> Vec<u128> {
        let told = self.notices.iter().filter(|notice| which(notice.news));
        told.map(|notice| notice.session.as_u128()).collect()
    }
}

/// A claim that waits if it has to.
fn claim(session: u128, ticket: u64, permit: Permit) -> Request {
    Request {
        session: SessionId::from_u128(session),
        ticket: Ticket(ticket),
        mode: Mode::Exclusive,
        permit,
        wait: true,
        term: Term::default(),
        note: None,
    }
}

fn mutex(session: u128, ticket: u64) -> Request {
    claim(session, ticket, Permit::MUTEX)
}

fn reader(session: u128, ticket: u64) -> Request {
    claim(session, ticket, Permit::READER)
}

fn writer(session: u128, ticket: u64) -> Request {
    claim(session, ticket, Permit::WRITER)
}

fn permits(session: u128, ticket: u64, weight: u32, capacity: u32) -> Request {
    claim(session, ticket, Permit::new(weight, capacity).unwrap())
}

fn trying(request: Request) -> Request {
    Request { wait: false, ..request }
}

fn for_at_least(micros: u64, request: Request) -> Request {
    Request { term: Term::Session { at_least: Duration::from_micros(micros) }, ..request }
}

fn for_exactly(micros: u64, request: Request) -> Request {
    Request { term: Term::Fixed(Duration::from_micros(micros)), ..request }
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

fn granted(number: u64) -> Outcome {
    Outcome::Granted { token: token(number) }
}

const DONE: Outcome = Outcome::Released(Released::Done);
const GONE: Outcome = Outcome::Released(Released::Gone);

fn is_granted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Granted { .. })
}

fn is_head(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Queued { head: true, .. })
}

fn is_behind(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Queued { head: false, .. })
}

fn is_busy(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Busy { .. })
}
