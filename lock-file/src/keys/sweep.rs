//! Removes the files of keys that are idle, and whose tokens are behind the store's clock.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::Result;
use lock_core::table::{Command, KeyRecord};
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::{KeyPath, Keys, path};
use crate::directory::open_dir;
use crate::flock::try_lock;
use crate::session::Sessions;
use crate::temporary::{age, remove_abandoned};

/// How many files one call looks at.
const BOUND: usize = 64;

/// Goes round the shards, a piece at each call.
#[derive(Debug)]
pub(crate) struct Sweeper {
    next: AtomicU64,
    idle_after: Duration,
}

impl Sweeper {
    pub(crate) fn new(idle_after: Duration) -> Sweeper {
        // Every process begins elsewhere.
        Sweeper { next: AtomicU64::new(RandomState::new().build_hasher().finish()), idle_after }
    }

    /// Looks at one shard. Whatever fails is left to the next round.
    pub(crate) fn sweep(&self, keys: &Keys, sessions: &Sessions) -> Result<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let shard = path::shard_name(turn as u8);
        let dir = match open_dir(&keys.directory.keys, &*shard) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(keys.directory.failed("opening a shard", errno)),
        };
        let mut names = keys.names(&shard)?;
        if !names.is_empty() {
            // A large shard is swept in pieces.
            let start = (turn >> 8) as usize * BOUND % names.len();
            names.rotate_left(start);
        }
        let mut raised = None;
        for name in names.into_iter().take(BOUND) {
            let path = KeyPath::of_encoded(name);
            if self.is_idle(keys, &path)? {
                let Some(_lock) =
                    try_lock(&dir).map_err(|errno| keys.failed("locking the shard of", &path, errno))?
                else {
                    return Ok(());
                };
                // One that cannot be read must not keep the others from being swept.
                let _ = keys.remove_if_disposable(&path, sessions, &mut raised);
            }
        }
        keys.clean(&dir);
        Ok(())
    }

    fn is_idle(&self, keys: &Keys, path: &KeyPath) -> Result<bool> {
        match age(&keys.directory.keys, path.as_str(), &*keys.clock) {
            Ok(age) => Ok(age >= self.idle_after),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(keys.failed("looking at", path, errno)),
        }
    }
}

impl Keys {
    /// Only under the shard's lock. `raised` is the floor that this sweep has set already.
    fn remove_if_disposable(
        &self,
        path: &KeyPath,
        sessions: &Sessions,
        raised: &mut Option<u64>,
    ) -> Result<()> {
        // It may have a name and no content since a power loss.
        let Some(mut file) = self.open(path)? else { return self.remove(path, 0, raised) };
        let Some(_lock) = try_lock(&file.file).map_err(|errno| self.failed("locking", path, errno))? else {
            return Ok(());
        };
        if !file.file.is_linked().map_err(|errno| self.failed("looking at", path, errno))? {
            return Ok(());
        }
        let slots = file.file.read(&mut file.buffer).map_err(|errno| self.failed("reading", path, errno))?;
        // A damaged one is nobody's to remove but a person's.
        let Some(Ok(mut record)) = slots.newest.map(|slot| KeyRecord::decode(slot.bytes)) else {
            return Ok(());
        };
        let mut living = std::collections::BTreeSet::new();
        for session in record.sessions() {
            if sessions.end_if_over(session)? {
                living.insert(session);
            }
        }
        let input = self.epoch.input();
        // On a copy: whatever it grants is granted by those whom it concerns.
        record.apply(input, &Command::Settle, &|session| living.contains(&session));
        if !record.is_disposable(input) {
            return Ok(());
        }
        self.remove(path, record.fence(), raised)
    }

    /// Only under the shard's lock, and after nothing is held by it.
    fn remove(&self, path: &KeyPath, fence: u64, raised: &mut Option<u64>) -> Result<()> {
        // First the floor, then the file: whoever finds no file begins above every token that it gave.
        let floor = match raised {
            Some(floor) if *floor >= fence => *floor,
            _ => match self.epoch.raise(&self.directory, fence.max(self.epoch.now()))? {
                Some(floor) => *raised.insert(floor),
                None => return Ok(()),
            },
        };
        debug_assert!(floor >= fence);
        unlinkat(&self.directory.keys, path.as_str(), AtFlags::empty())
            .map_err(|errno| self.failed("removing", path, errno))?;
        let directories: Vec<_> = path.directories().collect();
        for directory in directories.into_iter().rev() {
            // Fails as soon as there is something left in it.
            let _ = unlinkat(&self.directory.keys, directory, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    /// Removes what was never put in place, and the directories of long keys in which there is nothing.
    fn clean(&self, shard: &OwnedFd) {
        remove_abandoned(shard, &*self.clock);
        // Under the lock: whoever makes a key makes its directories first.
        let Ok(Some(_lock)) = try_lock(shard) else { return };
        self.clean_directories(shard);
    }

    fn clean_directories(&self, dir: &OwnedFd) {
        let Ok(entries) = Dir::read_from(dir) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_ok_and(path::is_directory) {
                continue;
            }
            let Ok(inner) = open_dir(dir, entry.file_name()) else { continue };
            remove_abandoned(&inner, &*self.clock);
            self.clean_directories(&inner);
            // Fails as soon as there is something in it.
            let _ = unlinkat(dir, entry.file_name(), AtFlags::REMOVEDIR);
        }
    }
}
