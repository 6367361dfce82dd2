//! [`Group`]: the command's processes, as whoever has to end them sees them: the guard process, and `fencepost` itself once
//! its guard was killed.

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process_group, wait,
};

use crate::process::Process;

/// A process group whose leader is a child of this process, and what descends from it.
#[derive(Debug)]
pub(crate) struct Group {
    /// None once it was reaped.
    leader: Option<Pid>,
    leader_stopped: bool,
    /// None once the group is gone: the system may give the number to anybody then.
    number: Option<Pid>,
    /// Children of this process that are none of the command's.
    strangers: Vec<Pid>,
    /// Who was asked to end one by one.
    asked: Vec<Pid>,
}

/// What became of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Its status, or 128 and the number of the signal that ended it.
    Exited {
        status: u8,
        by_signal: bool,
    },
    Stopped(i32),
}

impl Group {
    /// The group of a leader that this process has started.
    pub(crate) fn new(leader: Pid) -> Group {
        let (strangers, asked) = (Vec::new(), Vec::new());
        Group { leader: Some(leader), leader_stopped: false, number: Some(leader), strangers, asked }
    }

    /// The group of a leader whose parent ended: what descends from it has come to this process, where the strangers had
    /// been before. The leader needs no care of its own: outside of its group it is one of the others, as is one that
    /// nobody told of.
    pub(crate) fn orphaned(number: Option<Pid>, strangers: Vec<Pid>) -> Group {
        Group { leader: None, leader_stopped: false, number, strangers, asked: Vec::new() }
    }

    /// Best effort: to one of another user there is nothing to say. Once the group is gone it is for the others.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(number) = self.number {
            match (kill_process_group(number, signal), self.leader) {
                (Err(Errno::SRCH), None) => self.number = None,
                // It went to another group, and left none of its own.
                (Err(Errno::SRCH), Some(leader)) => {
                    let _ = kill_process(leader, signal);
                }
                _ => {}
            }
        }
        if self.number.is_none() {
            for other in self.others() {
                let _ = kill_process(other, signal);
            }
        }
        if signal == Signal::CONT {
            self.leader_stopped = false;
        }
    }

    /// Passes on what asks for an end: somebody who is stopped would not hear it.
    pub(crate) fn pass_on(&mut self, signal: Signal) {
        self.signal(signal);
        if self.leader_stopped && [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT].contains(&signal) {
            self.signal(Signal::CONT);
        }
    }

    /// Reaps who ended, also orphans from further down, until there is news of the leader or nothing more.
    pub(crate) fn reap(&mut self) -> Option<News> {
        loop {
            let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
            let (pid, status) = wait(options).ok().flatten()?;
            if Some(pid) != self.leader {
                continue;
            }
            self.leader_stopped = status.stopped();
            if let Some(signal) = status.stopping_signal() {
                return Some(News::Stopped(signal));
            }
            let by_signal = status.terminating_signal();
            if let Some(code) = by_signal.map(|signal| signal | 128).or(status.exit_status()) {
                self.leader = None;
                let status = u8::try_from(code & 0xFF).unwrap_or(u8::MAX);
                return Some(News::Exited { status, by_signal: by_signal.is_some() });
            }
        }
    }

    /// Whether none of its processes is left. Once it was killed, those do not count that only wait to be reaped by a
    /// parent outside the group.
    pub(crate) fn is_gone(&mut self, killed: bool) -> bool {
        let is_left = |number: &Pid| {
            self.leader.is_some()
                || test_kill_process_group(*number) != Err(Errno::SRCH) && !(killed && is_dead(*number))
        };
        self.number = self.number.filter(is_left);
        self.number.is_none()
    }

    /// Whether it was not gone when it was last looked at.
    pub(crate) fn has_number(&self) -> bool {
        self.number.is_some()
    }

    /// Once the group is gone: whether others that descend from it live. Their parents are dead, so they are children of
    /// this process by now.
    pub(crate) fn has_strays(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Ends who descends from the group and changed to another; whether some are left. Each of them alone: their groups may
    /// be anybody's, and their own children come here once they are gone.
    pub(crate) fn end_others(&mut self, killed: bool) -> bool {
        let others = self.others();
        for &other in &others {
            if killed {
                let _ = kill_process(other, Signal::KILL);
            } else if !self.asked.contains(&other) {
                let _ = kill_process(other, Signal::TERM);
                let _ = kill_process(other, Signal::CONT);
            }
        }
        let some = !others.is_empty();
        self.asked = others;
        some
    }

    /// Once the group is gone: who descends from it and only changed groups, as what `timeout` or a shell with job control
    /// starts does. Who left the session as well meant to go on without us; who is in this process's own group came with
    /// whoever started this process.
    fn others(&self) -> Vec<Pid> {
        if !self.has_strays() {
            return Vec::new();
        }
        let (Some(own), Ok(processes)) = (Process::own(), Process::all()) else { return Vec::new() };
        let is_other = |it: &Process| {
            it.parent == own.pid.as_raw_nonzero().get()
                && it.session == own.session
                && it.group != own.group
                && it.lives()
                && !self.strangers.contains(&it.pid)
        };
        processes.filter(is_other).map(|process| process.pid).collect()
    }
}

/// Where the system does not say who lives, somebody may.
fn is_dead(group: Pid) -> bool {
    let group = group.as_raw_nonzero().get();
    Process::all().is_ok_and(|mut all| !all.any(|process| process.group == group && process.lives()))
}
