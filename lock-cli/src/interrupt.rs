//! [`Interrupt`]: to end by the signal that ended the command, as a script around it expects.
//!
//! A shell goes on with its script after a command that exits with 130, and ends it after one that the terminal's interrupt
//! has killed: only the system's own word for how a process ended tells them apart. So `fencepost` has to be killed by the
//! signal, too. What it catches does nothing to it, and safe code cannot stop catching; but a program that is executed
//! begins with nothing caught. It is the same process still.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{
    DumpableBehavior, Signal, getpid, kill_current_process_group, kill_process, set_dumpable_behavior,
};

/// By this first word of its command line the program knows that it is to end by a signal.
pub(crate) const NAME: &str = "fencepost-interrupt";

const TO_ALL: &str = "group";

/// A signal of the terminal that ended the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupt {
    pub(crate) signal: Signal,
    /// Only the command has heard it, for it was in front.
    pub(crate) is_unheard: bool,
}

impl Interrupt {
    /// Which one it was, if a command that a signal ended has this status.
    pub(crate) fn of(status: u8, is_unheard: bool) -> Option<Interrupt> {
        let signal = [Signal::INT, Signal::QUIT].into_iter().find(|it| status_of(*it) == status)?;
        Some(Interrupt { signal, is_unheard })
    }

    pub(crate) fn status(self) -> u8 {
        status_of(self.signal)
    }

    /// Ends this process by the signal; returns if that cannot be.
    pub(crate) fn end(self) {
        let mut program = Command::new("/proc/self/exe");
        program.arg0(NAME).arg(self.status().to_string());
        if self.is_unheard {
            program.arg(TO_ALL);
        }
        let _ = program.exec();
    }
}

/// What is executed for that.
pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let status = words.first().and_then(|word| word.to_str()?.parse().ok()).unwrap_or_default();
    if let Some(Interrupt { signal, .. }) = Interrupt::of(status, false) {
        // An image of this process would say nothing of the command.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let _ = match words.get(1) {
            Some(word) if word == TO_ALL => kill_current_process_group(signal),
            _ => kill_process(getpid(), signal),
        };
    }
    // It was ignored when `fencepost` was started.
    ExitCode::from(status)
}

fn status_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}
