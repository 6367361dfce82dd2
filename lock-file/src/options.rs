//! [`FileOptions`]: how a directory is opened.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};

/// How a directory of locks is opened.
#[derive(Clone, Debug)]
pub struct FileOptions {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) group: Option<u32>,
    pub(crate) unsafe_fs: bool,
    pub(crate) idle_after: Duration,
    pub(crate) boot_id: Option<String>,
}

impl FileOptions {
    /// A directory of this user alone, on a file system that is known to work, by the machine's clock.
    pub fn new() -> FileOptions {
        FileOptions {
            clock: Arc::new(SystemClock::new()),
            group: None,
            unsafe_fs: false,
            idle_after: Duration::from_secs(60),
            boot_id: None,
        }
    }

    /// Reads time from another clock: for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> FileOptions {
        self.clock = clock;
        self
    }

    /// Shares the directory with the users of a group, by its number. Each of them can end anybody's locks.
    #[must_use]
    pub fn group(mut self, gid: u32) -> FileOptions {
        self.group = Some(gid);
        self
    }

    /// Shares the directory with the users of a group, by its name or number.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) when `/etc/group` has no such name. Groups of a directory service
    /// are not looked up: give their number.
    pub fn group_named(self, group: &str) -> Result<FileOptions> {
        if let Ok(gid) = group.parse() {
            return Ok(self.group(gid));
        }
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let gid = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? == group { fields.nth(1)?.parse().ok() } else { None }
        });
        gid.map(|gid| self.group(gid)).ok_or_else(|| {
            Error::new(
                ErrorKind::Misconfigured,
                format!(
                    "there is no group {group:?} in /etc/group; for a group of a directory service give its number \
                     (getent group {group:?})"
                ),
            )
        })
    }

    /// Accepts a file system that is not known to work. The probe then reports it as unsafe.
    #[must_use]
    pub fn unsafe_fs(mut self, accept: bool) -> FileOptions {
        self.unsafe_fs = accept;
        self
    }

    /// For how long the file of an idle key stays before it is removed; a minute unless set.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> FileOptions {
        self.idle_after = time;
        self
    }

    /// Pretends to run in another boot of the machine: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn boot_id(mut self, id: impl Into<String>) -> FileOptions {
        self.boot_id = Some(id.into());
        self
    }
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_name_and_by_number() {
        assert_eq!(FileOptions::new().group_named("root").unwrap().group, Some(0));
        assert_eq!(FileOptions::new().group_named("4711").unwrap().group, Some(4711));
        let error = FileOptions::new().group_named("no such group").unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured);
    }
}
