//! What is not in place yet: its names, and the end of what never got there.
//!
//! Files and directories are made under such a name, beside their place, and renamed when they are whole. A process that
//! is killed in between leaves one behind, which belongs to nobody after a while.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::Clock;
use rustix::fs::{
    AtFlags, Dir, FileType, Stat, Timespec, Timestamps, UTIME_NOW, statat, unlinkat, utimensat,
};
use rustix::path::Arg;

/// What such names begin with. No encoded key and no session's name begins so.
pub(crate) const TEMPORARY: char = '~';

/// Far longer than anybody needs to put a thing in place.
pub(crate) const ABANDONED: Duration = Duration::from_secs(300);

/// A new name beside a path, so that the rename stays within one directory.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!("{TEMPORARY}{:016x}", RandomState::new().build_hasher().finish()))
}

/// Removes what was left behind in a directory. Best effort.
pub(crate) fn remove_abandoned(dir: impl AsFd, clock: &dyn Clock) {
    let Ok(entries) = Dir::read_from(&dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !is_temporary(name.to_bytes()) {
            continue;
        }
        let Ok((stat, age)) = look(&dir, name, clock) else { continue };
        if age >= ABANDONED {
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let _ = unlinkat(&dir, name, if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() });
        }
    }
}

/// Exactly such a name as `beside` makes: nobody else's file is removed.
fn is_temporary(name: &[u8]) -> bool {
    let random = name.strip_prefix(&[TEMPORARY as u8]);
    random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
}

/// How long ago a file was written.
pub(crate) fn age(dir: impl AsFd, name: impl Arg + Copy, clock: &dyn Clock) -> rustix::io::Result<Duration> {
    look(dir, name, clock).map(|(_, age)| age)
}

/// By the wall clock, as file systems count: for cleaning only. A time in the future, from before that clock was set back,
/// is made the present one: or the file would stay until then.
fn look(dir: impl AsFd, name: impl Arg + Copy, clock: &dyn Clock) -> rustix::io::Result<(Stat, Duration)> {
    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let written = u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1_000_000);
    let now = clock.wall_micros();
    if written > now {
        let present = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: present, last_modification: present };
        let _ = utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
    Ok((stat, Duration::from_micros(now.saturating_sub(written))))
}
