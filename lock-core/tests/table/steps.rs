//! A random history: commands of a few sessions on one key, deaths, and a clock that also goes back.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use lock_core::table::{Applied, Command, Input, KeyRecord, Request};
use lock_core::{Certainty, Mode, Note, Permit, SessionId, Term, Ticket};
use proptest::prelude::*;

/// One step of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Command(Command),
    /// Ends all holds, or the one of this index, if there is one.
    Force(Option<usize>),
    Dies(SessionId),
    /// The store's clock moves by so many microseconds.
    Clock(i64),
}

pub(super) fn history() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![Just(1), Just(3), Just(Permit::WHOLE)]
        .prop_flat_map(|capacity| prop::collection::vec(step(capacity), 1..80))
}

fn step(capacity: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => request(capacity).prop_map(|request| Step::Command(Command::Claim(request))),
        6 => release().prop_map(Step::Command),
        1 => Just(Step::Command(Command::Settle)),
        1 => prop::option::of(0..3_usize).prop_map(Step::Force),
        1 => session().prop_map(Step::Dies),
        4 => (-300..500_i64).prop_map(Step::Clock),
    ]
}

fn session() -> impl Strategy<Value = SessionId> {
    (1..7_u128).prop_map(SessionId::from_u128)
}

fn ticket() -> impl Strategy<Value = Ticket> {
    (1..5_u64).prop_map(Ticket)
}

fn request(capacity: u32) -> impl Strategy<Value = Request> {
    let permit = prop_oneof![
        20 => prop_oneof![Just(1), Just(capacity), 1..=capacity].prop_map(move |weight| (weight, capacity)),
        1 => Just((1, 2)),
    ]
    .prop_filter_map("weight above capacity", |(weight, capacity)| Permit::new(weight, capacity).ok());
    let time = (1..600_u64).prop_map(Duration::from_micros);
    let term = prop_oneof![
        4 => Just(Term::default()),
        1 => time.clone().prop_map(|at_least| Term::Session { at_least }),
        1 => time.prop_map(Term::Fixed),
    ];
    let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared), Just(Mode::Permits { held: 1, of: 3 })];
    let note =
        prop::option::weighted(0.1, "\\PC{0,20}").prop_map(|text| text.and_then(|t| Note::new(t).ok()));
    (session(), ticket(), mode, permit, prop::bool::weighted(0.7), term, note).prop_map(
        |(session, ticket, mode, permit, wait, term, note)| Request {
            session,
            ticket,
            mode,
            permit,
            wait,
            term,
            note,
        },
    )
}

fn release() -> impl Strategy<Value = Command> {
    let certainty = prop_oneof![3 => Just(Certainty::Settled), 1 => Just(Certainty::MaybeInFlight)];
    (session(), ticket(), certainty).prop_map(|(session, ticket, certainty)| Command::Release {
        session,
        ticket,
        certainty,
    })
}

/// A key's record, the store's clock, and the sessions that have died.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) record: KeyRecord,
    pub(super) clock: u64,
    pub(super) dead: BTreeSet<SessionId>,
}

impl World {
    pub(super) fn new() -> World {
        World { record: KeyRecord::new(), clock: 10_000, dead: BTreeSet::new() }
    }

    pub(super) fn input(&self) -> Input {
        Input { now: self.clock, proposed_token: self.clock }
    }

    pub(super) fn is_alive(&self, session: SessionId) -> bool {
        !self.dead.contains(&session)
    }

    /// What a step asks of the record; deaths and clocks just happen.
    pub(super) fn command(&mut self, step: &Step) -> Option<Command> {
        match step {
            Step::Command(command) => return Some(command.clone()),
            Step::Force(None) => return Some(Command::ForceRelease { only: None }),
            Step::Force(Some(index)) => {
                let only = Some(self.record.holders().get(*index)?.token);
                return Some(Command::ForceRelease { only });
            }
            Step::Dies(session) => {
                self.dead.insert(*session);
            }
            Step::Clock(by) => self.clock = self.clock.saturating_add_signed(*by),
        }
        None
    }

    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        let (input, dead) = (self.input(), &self.dead);
        self.record.apply(input, command, &|session| !dead.contains(&session))
    }

    /// Applies a command and counts the questions for a session's life.
    pub(super) fn count_questions(&mut self, command: &Command) -> (Applied, usize) {
        let asked = Cell::new(0);
        let (input, dead) = (self.input(), &self.dead);
        let applied = self.record.apply(input, command, &|session| {
            asked.set(asked.get() + 1);
            !dead.contains(&session)
        });
        (applied, asked.get())
    }
}
