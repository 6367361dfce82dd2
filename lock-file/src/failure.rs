//! From the system's error numbers to errors that say what to do.

use lock_core::{Error, ErrorKind};
use rustix::io::Errno;

/// The error for a system call that failed while doing `what` at `endpoint`.
pub(crate) fn failed(endpoint: &str, what: &str, errno: Errno) -> Error {
    let (kind, advice) = advice(errno);
    Error::new(kind, format!("{what}: {errno}; {advice}")).at(endpoint).caused_by(std::io::Error::from(errno))
}

/// An error about what lies in the directory, or about how it was asked for.
pub(crate) fn wrong(endpoint: &str, kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message).at(endpoint)
}

/// Somebody holds a lock file's lock for far longer than its critical section takes.
pub(crate) fn stuck(endpoint: &str, what: &str) -> Error {
    Error::unavailable(format!(
        "another process is inside the critical section of {what} and does not leave it: it was probably stopped \
         (SIGSTOP, a debugger, a frozen container) at that instant. Find it with `fuser -v` or in /proc/locks, and \
         continue or end it"
    ))
    .at(endpoint)
}

fn advice(errno: Errno) -> (ErrorKind, &'static str) {
    match errno {
        Errno::NOSPC | Errno::DQUOT => {
            (ErrorKind::Exhausted, "make room, or raise the quota: nothing can be locked here until then")
        }
        Errno::ROFS => (
            ErrorKind::Exhausted,
            "the file system is mounted read-only: remount it, or use another directory",
        ),
        Errno::ACCESS | Errno::PERM => (
            ErrorKind::Denied,
            "the user of this process may not: use a directory of its own, or share one by the `group` option",
        ),
        Errno::MFILE => (
            ErrorKind::Unavailable,
            "this process has no descriptors left: close some, or raise its limit (ulimit -n, LimitNOFILE=)",
        ),
        Errno::NFILE => (
            ErrorKind::Unavailable,
            "the whole machine has no descriptors left: look for a leak, or raise fs.file-max",
        ),
        Errno::LOOP => (
            ErrorKind::Misconfigured,
            "there is a symbolic link where the store keeps a file of its own: links are never followed here",
        ),
        Errno::NOTDIR | Errno::ISDIR => (
            ErrorKind::Misconfigured,
            "something else lies where the store keeps its own files: give it a directory of its own",
        ),
        Errno::NOENT => {
            (ErrorKind::Unavailable, "a part of the directory is gone: was it removed while it was in use?")
        }
        _ => (ErrorKind::Unavailable, "the kernel's log (dmesg) may say more"),
    }
}
