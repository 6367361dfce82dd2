//! [`Recorder`]: one operation after the other, as its caller saw it.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lock_core::{BootTime, Clock, SystemClock};
use serde_json::{Value, json};

/// Writes down what clients ask for and are told, in nanoseconds of one clock.
#[derive(Debug, Default)]
pub struct Recorder {
    clock: SystemClock,
    operations: Mutex<Vec<Operation>>,
}

/// One acquisition, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// For which lock.
    pub key: String,
    /// How much of it.
    pub weight: u32,
    /// Of how much.
    pub capacity: u32,
    /// When it was asked for.
    pub invoked: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing is known of it yet, or ever: it may have been granted, and its caller does not rely on that.
    Unknown,
    /// It was not granted.
    Failed {
        /// When its caller was told.
        at: u64,
    },
    /// It was granted.
    Granted {
        /// When its caller was told.
        at: u64,
        /// Under this token.
        token: u64,
        /// Until when its caller relied on it: until it gave it back, was told of its loss, or its own deadline passed,
        /// whichever came first. `None`: to the end of the history.
        until: Option<u64>,
    },
}

/// An operation in a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(usize);

impl Recorder {
    /// An empty history.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// A client asks for a lock. Until more is said of it, its outcome is unknown.
    pub fn invoke(&self, client: u64, key: &str, weight: u32, capacity: u32) -> Entry {
        let invoked = self.now();
        let mut operations = self.all();
        operations.push(Operation {
            client,
            key: key.to_owned(),
            weight,
            capacity,
            invoked,
            outcome: Outcome::Unknown,
        });
        Entry(operations.len() - 1)
    }

    /// It was granted.
    pub fn returned(&self, entry: Entry, token: u64) {
        let at = self.now();
        self.all()[entry.0].outcome = Outcome::Granted { at, token, until: None };
    }

    /// It was refused, or its caller lost patience, and nothing is held.
    pub fn failed(&self, entry: Entry) {
        let at = self.now();
        self.all()[entry.0].outcome = Outcome::Failed { at };
    }

    /// Its caller gives it back, or is told of its loss.
    pub fn gives_back(&self, entry: Entry) {
        self.ends(entry, self.now());
    }

    /// Its caller's own deadline is this instant.
    pub fn deadline(&self, entry: Entry, at: BootTime) {
        self.ends(entry, at.as_nanos());
    }

    /// The earliest end counts.
    fn ends(&self, entry: Entry, at: u64) {
        if let Outcome::Granted { until, .. } = &mut self.all()[entry.0].outcome {
            *until = Some(until.map_or(at, |known| known.min(at)));
        }
    }

    /// The history so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.all().clone()
    }

    /// The history as JSON, one event a line, in the order in which they happened.
    pub fn to_json_lines(&self) -> String {
        let mut events: Vec<(u64, Value)> = Vec::new();
        for (number, operation) in self.all().iter().enumerate() {
            let Operation { client, key, weight, capacity, invoked, outcome } = operation;
            let mut push = |at: u64, event: &str, mut fields: Value| {
                fields["at"] = at.into();
                fields["operation"] = number.into();
                fields["event"] = event.into();
                events.push((at, fields));
            };
            push(
                *invoked,
                "invoke",
                json!({ "client": client, "key": key, "weight": weight, "capacity": capacity }),
            );
            match *outcome {
                Outcome::Unknown => push(*invoked, "unknown", json!({})),
                Outcome::Failed { at } => push(at, "fail", json!({})),
                Outcome::Granted { at, token, until } => {
                    push(at, "return", json!({ "token": token }));
                    if let Some(until) = until {
                        push(until, "end", json!({}));
                    }
                }
            }
        }
        events.sort_by_key(|(at, _)| *at);
        events.iter().fold(String::new(), |mut text, (_, event)| {
            let _ = writeln!(text, "{event}");
            text
        })
    }

    fn now(&self) -> u64 {
        self.clock.boot().as_nanos()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
