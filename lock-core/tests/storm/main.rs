//! The engine under every kind of weather: a store of which each call, reply and event may go wrong, on a virtual
//! clock and one thread. Everything follows from a seed; `STORM_SEED=n` replays one, `STORM_SEEDS=n` plays more.

#![expect(clippy::disallowed_methods, reason = "tasks of the test's own, on its own runtime")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what cannot be in a test ends it")]

mod actors;
mod deaths;
mod ends;
mod history;
mod many;
mod network;
mod polls;
mod scene;
mod server;
mod storms;
mod weather;
mod world;
