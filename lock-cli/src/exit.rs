//! What the exit status says, and how an error becomes one.

use std::error::Error as _;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use fencepost::{Busy, Error, ErrorKind, LockKey};

use crate::guard::found;

/// A usage error: `EX_USAGE` of sysexits.h, as are the others below 79.
pub(crate) const USAGE: u8 = 64;
/// The store cannot be reached, or cannot serve.
pub(crate) const UNAVAILABLE: u8 = 69;
/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 70;
/// The system refused something: no process, no descriptor left.
pub(crate) const SYSTEM: u8 = 71;
/// The directory of a file store cannot be used.
pub(crate) const DIRECTORY: u8 = 73;
/// Another holds the lock. `-E` changes it.
pub(crate) const BUSY: u8 = 75;
/// Wrong credentials, or settings that strict mode does not accept.
pub(crate) const REFUSED: u8 = 77;
/// The URL cannot be, or this build lacks its store.
pub(crate) const CONFIG: u8 = 78;
/// The time given by `--timeout` was over, as timeout(1) says it.
pub(crate) const TIMED_OUT: u8 = 124;
/// The command cannot be run, as a shell says it.
pub(crate) const CANNOT_RUN: u8 = 126;
/// The command is not there, as a shell says it.
pub(crate) const NOT_FOUND: u8 = 127;

/// Why nothing was run, or why it is not worth its status.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
    /// Who was in the way, if that is why.
    pub(crate) busy: Option<Busy>,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into(), busy: None }
    }

    /// Another holds the lock.
    pub(crate) fn busy(code: u8, key: &LockKey, busy: Busy) -> Failure {
        Failure { code, text: format!("{key} is {busy}; nothing was run"), busy: Some(busy) }
    }

    /// What the store had to say. A store in a directory has codes of its own.
    pub(crate) fn of(error: &Error, in_directory: bool) -> Failure {
        let mut text = error.to_string();
        if let Some(source) = error.source().map(ToString::to_string).filter(|source| !text.contains(source))
        {
            text = format!("{text}: {source}");
        }
        Failure::new(code(error.kind(), in_directory), format!("{text}; nothing was run"))
    }
}

fn code(kind: &ErrorKind, in_directory: bool) -> u8 {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::CapacityMismatch { .. } => USAGE,
        ErrorKind::Misconfigured | ErrorKind::Unsupported => CONFIG,
        ErrorKind::Denied | ErrorKind::Exhausted | ErrorKind::Damaged if in_directory => DIRECTORY,
        ErrorKind::Denied | ErrorKind::Unsafe => REFUSED,
        ErrorKind::WaitTimedOut(_) => BUSY,
        _ => UNAVAILABLE,
    }
}

/// For a command that the system would not start.
pub(crate) fn not_started(command: &OsStr, errno: i32) -> Failure {
    let error = std::io::Error::from_raw_os_error(errno);
    match error.kind() {
        std::io::ErrorKind::NotFound => match found(command) {
            Some(file) => Failure::new(
                NOT_FOUND,
                format!("{command:?} cannot be run: it is there, but {} is not", interpreter(&file)),
            ),
            None => Failure::new(NOT_FOUND, format!("{command:?} was not found; check its name and PATH")),
        },
        _ => Failure::new(CANNOT_RUN, format!("{command:?} cannot be run: {error}")),
    }
}

/// What the system runs in place of a file: of a script its first line says it.
fn interpreter(file: &Path) -> String {
    let mut start = [0; 256];
    let length = File::open(file).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let line = start[..length].strip_prefix(b"#!").and_then(|line| line.split(|&byte| byte == b'\n').next());
    match line {
        Some(line) => format!("its interpreter {:?}", String::from_utf8_lossy(line).trim()),
        None => "the interpreter of its format (the dynamic loader)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_a_code_of_its_own() {
        let denied = Error::new(ErrorKind::Denied, "no");
        assert_eq!(Failure::of(&denied, true).code, DIRECTORY);
        assert_eq!(Failure::of(&denied, false).code, REFUSED);
    }

    #[test]
    fn a_store_that_is_away_and_one_that_refuses_differ() {
        let code = |kind| Failure::of(&Error::new(kind, "x"), false).code;
        assert_eq!(code(ErrorKind::Unavailable), UNAVAILABLE);
        assert_eq!(code(ErrorKind::TimedOut), UNAVAILABLE);
        assert_eq!(code(ErrorKind::Unsafe), REFUSED);
        assert_eq!(code(ErrorKind::Misconfigured), CONFIG);
        assert_eq!(code(ErrorKind::WaitTimedOut(Box::default())), BUSY);
    }

    #[test]
    fn what_the_system_said_is_said_once() {
        let error = Error::unavailable("connect: refused").caused_by(std::io::Error::other("refused"));
        assert_eq!(Failure::of(&error, false).text, "store unavailable: connect: refused; nothing was run");
    }
}
