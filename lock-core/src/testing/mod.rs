//! For tests of whatever stands on this crate: a backend whose calls can be made to fail, and Tokio's own time as a clock.

mod tokio_clock;
mod wire;

pub use self::tokio_clock::TokioClock;
pub use self::wire::{Fault, Wire};
