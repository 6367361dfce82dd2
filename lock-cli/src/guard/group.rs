//! [`Group`]: the command's processes.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait};

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
        let (parent, session) = (rustix::process::getpid(), rustix::process::getsid(None).ok());
        let is_other = |line: &str| {
            let mut fields = line.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
            let (state, mut numbers) =
                (fields.next(), fields.map_while(|field| field.parse().ok()).map(Pid::from_raw));
            let (its_parent, _group, its_session) = (numbers.next(), numbers.next(), numbers.next());
            its_parent == Some(Some(parent))
                && its_session == Some(session)
                && !matches!(state, Some("Z" | "X"))
        };
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        numbers
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .filter(|pid| {
                let place = format!("/proc/{}/stat", pid.as_raw_nonzero());
                std::fs::read_to_string(place).is_ok_and(|line| is_other(&line))
            })
            .collect()
    }

    fn is_dead(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else { return false };
        let numbers = processes.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut living =
            numbers.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| self.lives_by(&stat))
            });
        living.next().is_none()
    }

    /// By a line of `/proc/PID/stat`: the name in parentheses may hold anything, the state and two numbers follow it.
    fn lives_by(&self, stat: &str) -> bool {
        let Some((_, rest)) = stat.rsplit_once(')') else { return false };
        let mut fields = rest.split_ascii_whitespace();
        let (state, _parent, group) = (fields.next(), fields.next(), fields.next());
        let is_member =
            group.and_then(|group| group.parse().ok()) == Some(self.leader.as_raw_nonzero().get());
        is_member && !matches!(state, Some("Z" | "X"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_says_who_lives_in_the_group() {
        let group = Group::new(Pid::from_raw(77).unwrap());
        assert!(group.lives_by("78 (a) Z 1 1) S 1 77 77 0 -1"));
        assert!(!group.lives_by("78 (a) Z 1 77 77 0 -1"), "a zombie");
        assert!(!group.lives_by("78 (a) S 77 78 77 0 -1"), "of another group");
    }
}
