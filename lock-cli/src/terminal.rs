//! [`Terminal`]: which process group is in front of it.

use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: Option<OwnedFd>,
    own: Pid,
    lent: bool,
}

impl Terminal {
    pub(crate) fn open() -> Terminal {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok();
        Terminal { tty, own: getpgrp(), lent: false }
    }

    /// Whether this process is in front: it may speak to the terminal and give the place away.
    pub(crate) fn is_ours(&self) -> bool {
        self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Ok(self.own))
    }

    /// Whether the command will surely want to be in front. In a pipeline it may be another that reads the keyboard, such
    /// as a pager; then the command gets the place once it asks for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_ours() && stdin().is_terminal() && stdout().is_terminal()
    }

    /// Puts the command's group in front; whether it is there now.
    pub(crate) fn lend(&mut self, group: Pid) -> bool {
        self.lent = self.is_ours() && self.put_in_front(group);
        self.lent
    }

    /// Takes the place back, if it was given away and nobody else has it.
    pub(crate) fn take_back(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.put_in_front(self.own);
        }
    }

    fn put_in_front(&self, group: Pid) -> bool {
        let Some(tty) = &self.tty else { return false };
        // Whoever is not in front and moves another there is stopped for it, unless the signal is blocked.
        let block = SigSet::from(Signal::SIGTTOU).thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let moved = tcsetpgrp(tty, group).is_ok();
        if let Ok(usual) = block {
            let _ = usual.thread_set_mask();
        }
        moved
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
