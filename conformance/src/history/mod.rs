//! Histories: what clients asked for and believed, on one clock, and whether that can have been.
//!
//! ```
//! use lock_conformance::history::{Judgement, Recorder, sweep};
//!
//! let recorder = Recorder::new();
//! let first = recorder.invoke(1, "k", 1, 1);
//! recorder.returned(first, 7);
//! recorder.gives_back(first);
//! let second = recorder.invoke(2, "k", 1, 1);
//! recorder.returned(second, 6); // a token that fell
//! assert!(matches!(sweep(&recorder.operations()), Judgement::Violated(_)));
//! ```

mod recorder;
mod register;
mod sweep;

pub use self::recorder::{Entry, Operation, Outcome, Recorder};
pub use self::register::{FencedRegister, Refused};
pub use self::sweep::{Judgement, sweep};
