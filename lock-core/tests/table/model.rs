//! The table again, as naively as it can be written: no care for cost, everything that is over goes first.

use lock_core::table::{Command, Input, Request};
use lock_core::{Certainty, SessionId, Term, Ticket};

type Name = (SessionId, Ticket);

#[derive(Clone, Debug, PartialEq)]
struct Hold {
    name: Name,
    weight: u64,
    token: u64,
    /// Ends at `until`; otherwise with its session, and not before `until`.
    fixed: bool,
    until: u64,
    given_back: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Wait {
    name: Name,
    weight: u64,
    term: Term,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Granted(u64),
    Queued,
    Busy,
    Withdrawn,
    SessionEnded,
    Mismatch,
    Done,
    Gone,
    Ended(usize),
    Settled,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    capacity: u64,
    last_token: u64,
    now: u64,
    holds: Vec<Hold>,
    waits: Vec<Wait>,
    withdrawn: Vec<Name>,
}

impl Model {
    pub(super) fn holders(&self) -> Vec<(Name, u64)> {
        self.holds.iter().map(|hold| (hold.name, hold.token)).collect()
    }

    pub(super) fn waiters(&self) -> Vec<Name> {
        self.waits.iter().map(|wait| wait.name).collect()
    }

    pub(super) fn apply(
        &mut self,
        input: Input,
        command: &Command,
        alive: &dyn Fn(SessionId) -> bool,
    ) -> Answer {
        let before = self.clone();
        self.now = self.now.max(input.now);
        self.settle(input, alive);
        let answer = match command {
            Command::Claim(request) => self.claim(input, request, alive),
            Command::Release { session, ticket, certainty } => {
                self.release((*session, *ticket), *certainty, alive)
            }
            Command::ForceRelease { only } => {
                let count = self.holds.len();
                self.holds.retain(|hold| only.is_some_and(|token| token.get() != hold.token));
                Answer::Ended(count - self.holds.len())
            }
            _ => Answer::Settled,
        };
        self.settle(input, alive);
        // A reading that changed nothing is not remembered.
        let now = std::mem::replace(&mut self.now, before.now);
        if *self != before {
            self.now = now;
        }
        answer
    }

    fn settle(&mut self, input: Input, alive: &dyn Fn(SessionId) -> bool) {
        self.withdrawn.retain(|name| alive(name.0));
        self.waits.retain(|wait| alive(wait.name.0));
        for hold in &mut self.holds {
            if !hold.fixed && !alive(hold.name.0) {
                (hold.fixed, hold.given_back) = (true, true);
            }
        }
        let now = self.now;
        self.holds.retain(|hold| !hold.fixed || hold.until > now);
        while let Some(first) = self.waits.first() {
            if self.weight_held() + first.weight > self.capacity {
                break;
            }
            let first = self.waits.remove(0);
            self.grant(input, first);
        }
    }

    fn claim(&mut self, input: Input, request: &Request, alive: &dyn Fn(SessionId) -> bool) -> Answer {
        let name = (request.session, request.ticket);
        if !alive(request.session) {
            return Answer::SessionEnded;
        }
        if self.withdrawn.contains(&name) {
            return Answer::Withdrawn;
        }
        if let Some(hold) = self.holds.iter().find(|hold| hold.name == name) {
            return if hold.given_back { Answer::Withdrawn } else { Answer::Granted(hold.token) };
        }
        if self.waits.iter().any(|wait| wait.name == name) {
            return Answer::Queued;
        }
        let capacity = u64::from(request.permit.capacity());
        let free = self.holds.is_empty() && self.waits.is_empty();
        if !free && self.capacity != capacity {
            return Answer::Mismatch;
        }
        let wait = Wait { name, weight: u64::from(request.permit.weight()), term: request.term };
        let waiting: u64 = self.waits.iter().map(|wait| wait.weight).sum();
        if self.weight_held() + waiting + wait.weight <= capacity {
            self.capacity = capacity;
            return Answer::Granted(self.grant(input, wait));
        }
        if !request.wait {
            return Answer::Busy;
        }
        self.waits.push(wait);
        Answer::Queued
    }

    fn release(&mut self, name: Name, certainty: Certainty, alive: &dyn Fn(SessionId) -> bool) -> Answer {
        if certainty == Certainty::MaybeInFlight && alive(name.0) && !self.withdrawn.contains(&name) {
            self.withdrawn.push(name);
        }
        if let Some(at) = self.waits.iter().position(|wait| wait.name == name) {
            self.waits.remove(at);
            return Answer::Done;
        }
        let Some(at) = self.holds.iter().position(|hold| hold.name == name && !hold.given_back) else {
            return Answer::Gone;
        };
        if self.holds[at].fixed {
            self.holds.remove(at);
        } else {
            (self.holds[at].fixed, self.holds[at].given_back) = (true, true);
        }
        Answer::Done
    }

    fn grant(&mut self, input: Input, Wait { name, weight, term }: Wait) -> u64 {
        let token = input.proposed_token.max(self.last_token + 1);
        self.last_token = token;
        let (fixed, time) = match term {
            Term::Fixed(time) => (true, time),
            Term::Session { at_least } => (false, at_least),
            _ => unreachable!("another term than the histories have"),
        };
        let until = self.now + time.as_micros() as u64;
        self.holds.push(Hold { name, weight, token, fixed, until, given_back: false });
        token
    }

    fn weight_held(&self) -> u64 {
        self.holds.iter().map(|hold| hold.weight).sum()
    }
}
