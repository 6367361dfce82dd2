//! [`Unprivileged`]: whom a server runs as that refuses to run as root.

use std::path::Path;

use lock_core::{Error, ErrorKind, Result};
use rustix::process::geteuid;
use tokio::process::Command;

/// Whom to become, in this order.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The user of a server that refuses to run as root: this process's own, unless that is root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unprivileged(Option<Other>);

#[derive(Clone, Copy, Debug)]
struct Other {
    user: u32,
    group: u32,
}

impl Unprivileged {
    /// # Errors
    /// This process is root's, and there is nobody else.
    pub(super) fn found() -> Result<Unprivileged> {
        if !geteuid().is_root() {
            return Ok(Unprivileged(None));
        }
        let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let other = USERS.iter().find_map(|name| Other::among(&known, name));
        let nobody = || {
            Error::new(
                ErrorKind::Misconfigured,
                "the server does not run as root, and there is neither a user postgres nor nobody",
            )
        };
        Ok(Unprivileged(Some(other.ok_or_else(nobody)?)))
    }

    /// Has it own a file or a directory.
    pub(super) fn owns(self, path: &Path) -> Result<()> {
        let Some(Other { user, group }) = self.0 else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .map_err(|error| Error::unavailable("cannot give a server its files").caused_by(error))
    }

    /// Has it run a program.
    pub(super) fn runs(self, command: &mut Command) {
        if let Some(Other { user, group }) = self.0 {
            command.uid(user).gid(group);
        }
    }

    /// What a command begins with that it is to run. The guard, before it, stays root: an island is entered only as that.
    pub(super) fn entry(self) -> Vec<String> {
        let Some(Other { user, group }) = self.0 else { return Vec::new() };
        vec![
            "setpriv".to_owned(),
            format!("--reuid={user}"),
            format!("--regid={group}"),
            "--clear-groups".to_owned(),
        ]
    }
}

impl Other {
    /// `postgres:x:101:104:PostgreSQL administrator:...`
    fn among(known: &str, name: &str) -> Option<Other> {
        let mut fields =
            known.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
        let _password = fields.next()?;
        Some(Other { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    }
}
