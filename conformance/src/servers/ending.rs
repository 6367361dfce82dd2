//! [`Ending`]: what has to be known of a server to end it.

use rustix::process::Signal;

/// How a server comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As a process does.
    Process,
    /// As PostgreSQL does, which is a first process and its children. Killed, it leaves a piece of memory in the kernel; so it
    /// is killed only where a test wants that, and otherwise told to end at once, which it does by itself.
    Postgres,
}

impl Ending {
    /// The signal at which nothing of it is left.
    pub(super) fn at_once(self) -> Signal {
        match self {
            Ending::Process => Signal::KILL,
            Ending::Postgres => Signal::QUIT,
        }
    }

    /// The signal that asks it to end. PostgreSQL would wait for its clients at a TERM.
    pub(super) fn orderly(self) -> Signal {
        match self {
            Ending::Process => Signal::TERM,
            Ending::Postgres => Signal::INT,
        }
    }
}
