//! Starting the command.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::link::Start;

/// Starts the command as the leader of a new process group, under the signal mask with which `fencepost` was started.
///
/// By `posix_spawn` and not by `std::process`, which would hand the guard's mask on.
pub(super) fn spawn(command: &[OsString], start: &Start, mask: &SigSet) -> Result<Pid, Errno> {
    let program = command.first().ok_or(Errno::INVAL)?;
    let words = command.iter().map(|word| c_string(word)).collect::<Result<Vec<_>, _>>()?;
    match spawn_words(&c_string(program)?, &words, start, mask) {
        // A script without a first line that says whose it is: a shell's, as shells have it.
        Err(Errno::NOEXEC) => {
            let script = found(program).unwrap_or_else(|| program.into());
            let script = c_string(script.as_os_str())?;
            let mut words = words;
            words.splice(0..1, [c"sh".to_owned(), script]);
            spawn_words(c"/bin/sh", &words, start, mask)
        }
        other => other,
    }
}

fn spawn_words(
    program: &std::ffi::CStr,
    words: &[CString],
    start: &Start,
    mask: &SigSet,
) -> Result<Pid, Errno> {
    let mut attributes = PosixSpawnAttr::init().map_err(super::errno)?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
        | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
        | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    attributes
        .set_pgroup(nix::unistd::Pid::from_raw(0))
        .and_then(|()| attributes.set_sigmask(mask))
        // Rust's start ignores it; what is ignored stays so across exec.
        .and_then(|()| attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE)))
        .and_then(|()| attributes.set_flags(flags))
        .map_err(super::errno)?;
    let actions = PosixSpawnFileActions::init().map_err(super::errno)?;
    let environment = environment(start)?;
    let pid = posix_spawnp(program, &actions, &attributes, words, &environment).map_err(super::errno)?;
    Pid::from_raw(pid.as_raw()).ok_or(Errno::CHILD)
}

/// The environment of `fencepost`, and what the command should know of its lock. The key is there already.
fn environment(start: &Start) -> Result<Vec<CString>, Errno> {
    let known =
        [("FENCEPOST_TOKEN", start.token.to_string()), ("FENCEPOST_MODE", start.mode.as_str().to_owned())];
    let others = std::env::vars_os().filter(|(name, _)| !known.iter().any(|(known, _)| name == known));
    others
        .chain(known.iter().map(|(name, value)| (name.into(), value.into())))
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            c_string(&variable)
        })
        .collect()
}

/// Where the search path leads to, if there is something that may be executed.
pub(crate) fn found(program: &OsStr) -> Option<PathBuf> {
    let is_path = program.as_bytes().contains(&b'/');
    let path = std::env::var_os("PATH").filter(|_| !is_path).unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.to_owned().into_vec()).map_err(|_| Errno::INVAL)
}
