//! [`Process`]: what `/proc` says of the processes of this machine.

use std::io::Result;

use rustix::process::Pid;

/// A process as it stood a moment ago.
///
/// Groups, sessions and parents are bare numbers: 0 is one outside of this container, as that of its first process is.
/// The calls that ask the system for them do not expect that answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
}

impl Process {
    /// All that are there; an error where `/proc` cannot be read, which says nothing of any process.
    pub(crate) fn all() -> Result<impl Iterator<Item = Process>> {
        let entries = std::fs::read_dir("/proc")?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // Who ended in between cannot be read any more.
        Ok(names
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .filter_map(|name| Process::read(&name)))
    }

    /// This one.
    pub(crate) fn own() -> Option<Process> {
        Process::read("self")
    }

    /// Whether it does more than wait to be reaped.
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    fn read(name: &str) -> Option<Process> {
        Process::parse(&std::fs::read_to_string(format!("/proc/{name}/stat")).ok()?)
    }

    /// A line of `stat`: the name in parentheses may hold anything, also parentheses.
    fn parse(stat: &str) -> Option<Process> {
        let (pid, _) = stat.split_once(' ')?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        Some(Process { pid: Pid::from_raw(pid.parse().ok()?)?, state, parent, group, session })
    }
}

/// Whether nobody could continue this process's group once it was stopped: no member has a parent in another group of the
/// session, which is what a shell with job control is. The system stops no such group by a terminal's signals. Process 1
/// cannot be stopped at all.
pub(crate) fn is_orphaned() -> bool {
    let (Some(own), Ok(all)) = (Process::own(), Process::all()) else { return false };
    let all: Vec<_> = all.collect();
    let looks_after = |parent: &Process, of: &Process| {
        parent.pid.as_raw_nonzero().get() == of.parent
            && parent.session == own.session
            && parent.group != own.group
    };
    let mut members = all.iter().filter(|it| it.group == own.group && it.lives());
    own.pid.as_raw_nonzero().get() == 1 || !members.any(|it| all.iter().any(|other| looks_after(other, it)))
}

/// The children of this process, or of its only thread; none where the system does not tell.
pub(crate) fn children() -> Vec<Pid> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let process = Process::parse("78 (a) Z 1 1) S 1 77 76 0 -1").unwrap();
        assert_eq!((process.parent, process.group, process.session), (1, 77, 76));
        assert!(process.lives());
        assert!(!Process::parse("78 (a) Z 1 77 77 0 -1").unwrap().lives());
    }

    #[test]
    fn a_group_and_a_session_may_be_outside() {
        let process = Process::parse("1 (init) S 0 0 0 0 -1").unwrap();
        assert_eq!((process.parent, process.group, process.session), (0, 0, 0));
    }

    #[test]
    fn this_process_is_there() {
        let own = Process::own().unwrap();
        assert_eq!(own.pid, rustix::process::getpid());
        assert!(Process::all().unwrap().any(|process| process.pid == own.pid && process.lives()));
    }
}
