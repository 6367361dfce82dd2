//! A server that is several processes: its first one, and the children of that. A signal to the first reaches no child, each
//! of which may be in a group of its own; so they are looked for.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// The processes whose parent this one is. None where the system does not say.
pub(super) fn children(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_child = |process: PathBuf| {
        let pid = process.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
        (Stat::of(&process)?.parent == parent.as_raw_nonzero().get()).then_some(pid)
    };
    processes.flatten().filter_map(|process| is_child(process.path())).collect()
}

/// One that has ended meanwhile needs no signal.
pub(super) fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

/// Whether all its threads stand still: those on other processors go on for a moment after a stop. Where the system does not
/// say, it is taken to.
pub(super) fn stands_still(pid: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(directory(pid).join("task")) else { return true };
    let mut stats = threads.flatten().filter_map(|thread| Stat::of(&thread.path()));
    stats.all(|stat| stat.state == 'T' || stat.is_of_the_dead())
}

/// Whether nothing of it goes on. Who inherits a child may leave its number standing for a while.
pub(super) fn has_ended(pid: Pid) -> bool {
    Stat::of(&directory(pid)).is_none_or(|stat| stat.is_of_the_dead())
}

fn directory(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string())
}

/// What the system says about a process or a thread.
struct Stat {
    state: char,
    parent: i32,
}

impl Stat {
    /// A number, a name in parentheses, the state, the parent.
    fn of(directory: &Path) -> Option<Stat> {
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        Some(Stat { state: words.next()?.chars().next()?, parent: words.next()?.parse().ok()? })
    }

    fn is_of_the_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}
