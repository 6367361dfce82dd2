//! The engine, sentence by sentence: over the memory store, on a clock that moves only when a test says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests run tasks beside each other; time is virtual here too")]

mod acquire;
mod cancel;
mod client;
mod loss;
mod opening;
mod peculiar;
mod records;
mod release;
mod renewal;
mod support;
mod work;
