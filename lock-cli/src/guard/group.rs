//! [`Group`]: the command's processes.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait};

use crate::process::Process;

/// A process group whose leader is a child of this process.
#[derive(Debug)]
pub(super) struct Group {
    leader: Pid,
    leader_ended: bool,
}

/// What became of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Its status, or 128 and the number of the signal that ended it.
    Exited(u8),
    Stopped(i32),
}

impl Group {
    pub(super) fn new(leader: Pid) -> Group {
        Group { leader, leader_ended: false }
    }

    /// Best effort: a group that is gone needs no signal, and to one of another user there is nothing to say.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.leader, signal);
    }

    /// Reaps who ended, also orphans from further down, until there is news of the leader or nothing more.
    pub(super) fn reap(&mut self) -> Option<News> {
        loop {
            let (pid, status) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED).ok().flatten()?;
            if pid != self.leader {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                return Some(News::Stopped(signal));
            }
            let by_signal = status.terminating_signal().map(|signal| signal | 128);
            if let Some(code) = status.exit_status().or(by_signal) {
                self.leader_ended = true;
                return Some(News::Exited(u8::try_from(code & 0xFF).unwrap_or(u8::MAX)));
            }
        }
    }

    /// Whether none of its processes is left. Once it was killed, those do not count that only wait to be reaped by a
    /// parent outside the group.
    pub(super) fn is_gone(&self, killed: bool) -> bool {
        self.leader_ended
            && (test_kill_process_group(self.leader) == Err(Errno::SRCH) || killed && self.is_dead())
    }

    /// Once the group is gone: whether others that descend from it live. Their parents are dead, so they are children of
    /// this process by now.
    pub(super) fn has_strays(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Once the group is gone: who descends from it and only changed groups, as what `timeout` or a shell with job control
    /// starts does. Who left the session as well meant to go on without us.
    pub(super) fn others(&self) -> Vec<Pid> {
        if !self.has_strays() {
            return Vec::new();
        }
        let (Some(own), Ok(processes)) = (Process::own(), Process::all()) else { return Vec::new() };
        let is_other = |it: &Process| {
            it.parent == own.pid.as_raw_nonzero().get() && it.session == own.session && it.lives()
        };
        processes.filter(is_other).map(|process| process.pid).collect()
    }

    /// Where the system does not say who lives, somebody may.
    fn is_dead(&self) -> bool {
        let leader = self.leader.as_raw_nonzero().get();
        Process::all().is_ok_and(|mut all| !all.any(|process| process.group == leader && process.lives()))
    }
}
