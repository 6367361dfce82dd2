//! [`Terminal`]: which process group is in front of it.

use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: Option<OwnedFd>,
    /// None where it has no number: in a container whose first process belongs to a group outside.
    own: Option<Pid>,
    lent_to: Option<Pid>,
    was_lent: bool,
}

impl Terminal {
    pub(crate) fn open() -> Terminal {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok();
        Terminal { tty, own: Pid::from_raw(nix::unistd::getpgrp().as_raw()), lent_to: None, was_lent: false }
    }

    /// Whether this process is in front: it may speak to the terminal and give the place away.
    pub(crate) fn is_ours(&self) -> bool {
        self.own.is_some_and(|own| self.is_of(own))
    }

    /// Whether this group is in front.
    pub(crate) fn is_of(&self, group: Pid) -> bool {
        self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Ok(group))
    }

    /// Whether the command should be in front from the start. Not in a pipeline, where it may be another that reads the
    /// keyboard, such as a pager; and not in a script, which has to hear Ctrl-C as well: there the command gets the place
    /// once it asks for it. What a shell with job control starts alone leads its group.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_ours()
            && self.own == Some(rustix::process::getpid())
            && stdin().is_terminal()
            && stdout().is_terminal()
    }

    /// Whether the command has it.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent_to.is_some_and(|group| self.is_of(group))
    }

    /// Whether the command has it, or had it when it was last taken back.
    pub(crate) fn was_lent(&self) -> bool {
        self.was_lent
    }

    /// Puts the command's group in front, if the place is ours to give; whether it is there now.
    pub(crate) fn lend(&mut self, group: Pid) -> bool {
        let lent = self.is_ours() && self.put_in_front(group);
        if lent {
            self.lent_to = Some(group);
            self.was_lent = true;
        }
        lent
    }

    /// Takes the place back, unless somebody else has it by now, such as the shell.
    pub(crate) fn take_back(&mut self) {
        if let (Some(own), Some(group)) = (self.own, self.lent_to.take())
            && self.is_of(group)
        {
            self.put_in_front(own);
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
