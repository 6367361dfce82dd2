//! The store's time, and the floor below which no new record begins: the file `store`.
//!
//! Store time is `CLOCK_BOOTTIME` plus an offset that is fixed for one boot: all processes of the machine read the same
//! clock, and it never steps. At the first opening after a boot the offset is set so that store time is wall time, and
//! not before the latest store time that was noted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lock_core::table::Input;
use lock_core::{Clock, ErrorKind, Result};
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use crate::FileOptions;
use crate::directory::Directory;
use crate::failure::{stuck, wrong};
use crate::flock::{Locked, lock_soon, try_lock};
use crate::slot_file::{Durability, Opened, SlotFile, open_at, publish};
use crate::slots::{Header, Kind, Slots};

const NAME: &str = "store";

/// The store's clock and floor, as one process sees them.
#[derive(Debug)]
pub(crate) struct Epoch {
    clock: Arc<dyn Clock>,
    /// Microseconds from boot time to store time.
    offset: u64,
    file: SlotFile,
    identity: (u64, u64),
    /// The highest floor that this process has read: it only rises.
    floor: AtomicU64,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    boot: String,
    time_namespace: String,
    offset: u64,
    floor: u64,
    /// The latest store time that was noted.
    latest: u64,
}

impl Epoch {
    /// Opens the file; sets the clock if this is the first opening after a boot.
    pub(crate) fn open(directory: &Directory, options: &FileOptions) -> Result<Epoch> {
        let clock = options.clock.clone();
        let (boot, time_namespace) = this_boot(directory, options)?;
        // A directory's lock, for the file may not be there yet; and that of one which nobody else may open. The root can be
        // opened by everybody where its mode says so, and whoever can open it can lock it.
        let locked = lock_soon(&directory.sessions, &*clock)
            .map_err(|errno| directory.failed("locking sessions/", errno))?
            .ok_or_else(|| stuck(&directory.endpoint, "the directory sessions/"))?;
        let uptime = clock.boot().as_nanos() / 1000;
        let file = match open_file(directory)? {
            Some(file) => file,
            None => {
                let record = Record {
                    boot: boot.clone(),
                    time_namespace: time_namespace.clone(),
                    offset: clock.wall_micros().saturating_sub(uptime),
                    floor: 0,
                    latest: 0,
                };
                let header = Header::new(Kind::Store, NAME, 400);
                let whole = header.file(1, &record.encode());
                publish(&directory.root, NAME, directory.access, header, &whole, Durability::Forced)
                    .map_err(|errno| directory.failed("making the file `store`", errno))?
            }
        };
        let identity =
            file.identity().map_err(|errno| directory.failed("looking at the file `store`", errno))?;
        let mut epoch = Epoch { clock, offset: 0, file, identity, floor: AtomicU64::new(0) };
        let mut record = epoch.record(directory)?;
        if record.boot == boot && record.time_namespace != time_namespace {
            return Err(wrong(
                &directory.endpoint,
                ErrorKind::Misconfigured,
                "the directory is in use from another time namespace, whose clock differs from this one's: run all of its \
                 users in one (containers usually are; `unshare --time` is not)",
            ));
        }
        if record.boot != boot {
            let wall = epoch.clock.wall_micros();
            record = epoch.change_soon(directory, |record| {
                record.offset = wall.max(record.latest).saturating_sub(uptime);
                record.boot = boot;
                record.time_namespace = time_namespace;
                record.latest = uptime.saturating_add(record.offset);
            })?;
        }
        epoch.offset = record.offset;
        epoch.floor = AtomicU64::new(record.floor);
        drop(locked);
        Ok(epoch)
    }

    /// The store's time in microseconds.
    pub(crate) fn now(&self) -> u64 {
        (self.clock.boot().as_nanos() / 1000).saturating_add(self.offset)
    }

    /// The readings for one command.
    pub(crate) fn input(&self) -> Input {
        let now = self.now();
        Input { now, proposed_token: now.max(self.floor.load(Ordering::Acquire).saturating_add(1)) }
    }

    /// Whether an instant of the wall clock lies before this boot of the machine, as far as that clock can be trusted.
    pub(crate) fn is_before_boot(&self, wall_micros: u64) -> bool {
        wall_micros < self.clock.wall_micros().saturating_sub(self.clock.boot().as_nanos() / 1000)
    }

    /// The floor as it stands in the file.
    pub(crate) fn floor(&self, directory: &Directory) -> Result<u64> {
        let floor = self.record(directory)?.floor;
        self.floor.fetch_max(floor, Ordering::AcqRel);
        Ok(floor)
    }

    /// Raises the floor to an instant, and notes that it has been. `None` when somebody else is at it.
    pub(crate) fn raise(&self, directory: &Directory, to: u64) -> Result<Option<u64>> {
        self.change(directory, |record| record.floor = record.floor.max(to))
    }

    /// Notes the present instant, so that store time does not go back at the next boot.
    pub(crate) fn note_time(&self, directory: &Directory) -> Result<()> {
        self.change(directory, |_| {}).map(|_| ())
    }

    /// Whether the file is still the one that everybody finds. Whoever opens another one lives in another time.
    pub(crate) fn is_in_place(&self, directory: &Directory) -> bool {
        match statat(&directory.root, NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (stat.st_dev, stat.st_ino) == self.identity,
            // A file that may not be looked at (any more) says nothing.
            Err(errno) => errno != Errno::NOENT,
        }
    }

    fn change(&self, directory: &Directory, edit: impl FnOnce(&mut Record)) -> Result<Option<u64>> {
        let file = self.reopened(directory)?;
        let lock = try_lock(&file).map_err(|errno| directory.failed("locking the file `store`", errno))?;
        if lock.is_none() {
            return Ok(None);
        }
        let record = rewrite(directory, &file, |record| {
            edit(record);
            record.latest = record.latest.max(self.now());
        })?;
        self.floor.fetch_max(record.floor, Ordering::AcqRel);
        Ok(Some(record.floor))
    }

    /// As `change`, waiting a little for whoever is at it.
    fn change_soon(&self, directory: &Directory, edit: impl FnOnce(&mut Record)) -> Result<Record> {
        let file = self.reopened(directory)?;
        let _lock = self.locked_soon(directory, &file)?;
        rewrite(directory, &file, edit)
    }

    /// The record, also while somebody writes it.
    fn record(&self, directory: &Directory) -> Result<Record> {
        let mut buffer = Vec::new();
        for _ in 0..50 {
            let slots = read(directory, &self.file, &mut buffer)?;
            if let (true, Some(slot)) = (slots.whole, slots.newest) {
                return Record::decode(slot.bytes).ok_or_else(|| damaged(directory));
            }
        }
        // A writer was killed in the middle: without another one at it, the slot that is left is the newest.
        let file = self.reopened(directory)?;
        let _lock = self.locked_soon(directory, &file)?;
        let slots = read(directory, &file, &mut buffer)?;
        slots.newest.and_then(|slot| Record::decode(slot.bytes)).ok_or_else(|| damaged(directory))
    }

    /// The file once more, under a descriptor of its own: a lock belongs to the open file, not to the thread. It is opened
    /// by its name, and what lies there may be another by now, into which nothing of this one's may be written.
    fn reopened(&self, directory: &Directory) -> Result<SlotFile> {
        let file = open_file(directory)?.ok_or_else(|| replaced(directory))?;
        match file.identity() {
            Ok(identity) if identity == self.identity => Ok(file),
            Ok(_) => Err(replaced(directory)),
            Err(errno) => Err(directory.failed("looking at the file `store`", errno)),
        }
    }

    fn locked_soon<'a>(&self, directory: &Directory, file: &'a SlotFile) -> Result<Locked<'a>> {
        lock_soon(file, &*self.clock)
            .map_err(|errno| directory.failed("locking the file `store`", errno))?
            .ok_or_else(|| stuck(&directory.endpoint, "the file `store`"))
    }
}

/// Only under the file's lock.
fn rewrite(directory: &Directory, file: &SlotFile, edit: impl FnOnce(&mut Record)) -> Result<Record> {
    let mut buffer = Vec::new();
    let newest = read(directory, file, &mut buffer)?.newest.ok_or_else(|| damaged(directory))?;
    let mut record = Record::decode(newest.bytes).ok_or_else(|| damaged(directory))?;
    edit(&mut record);
    file.write_after(&newest, &record.encode())
        .map_err(|errno| directory.failed("writing the file `store`", errno))?;
    Ok(record)
}

fn read<'a>(directory: &Directory, file: &SlotFile, buffer: &'a mut Vec<u8>) -> Result<Slots<'a>> {
    file.read(buffer).map_err(|errno| directory.failed("reading the file `store`", errno))
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.offset, self.floor, self.latest] {
            out.extend(number.to_be_bytes());
        }
        out.extend(self.boot.as_bytes());
        out.push(b'\n');
        out.extend(self.time_namespace.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let (numbers, text) = bytes.split_at_checked(24)?;
        let number = |at: usize| numbers[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        let (boot, time_namespace) = std::str::from_utf8(text).ok()?.split_once('\n')?;
        Some(Record {
            boot: boot.to_owned(),
            time_namespace: time_namespace.to_owned(),
            offset: number(0)?,
            floor: number(8)?,
            latest: number(16)?,
        })
    }
}

fn open_file(directory: &Directory) -> Result<Option<SlotFile>> {
    match open_at(&directory.root, NAME, Kind::Store) {
        Ok(Opened::Found(file)) => Ok(Some(file)),
        Ok(Opened::Absent) => Ok(None),
        Ok(Opened::Unfilled { .. } | Opened::Damaged) => Err(damaged(directory)),
        Err(errno) => Err(directory.failed("opening the file `store`", errno)),
    }
}

/// Somebody removed or replaced the file, or the whole directory, under a process that uses it.
pub(crate) fn replaced(directory: &Directory) -> lock_core::Error {
    wrong(
        &directory.endpoint,
        ErrorKind::Damaged,
        "the directory or its file `store` was removed or replaced while this process used it: restart every process that \
         uses it, so that all of them see the new one",
    )
}

fn damaged(directory: &Directory) -> lock_core::Error {
    wrong(
        &directory.endpoint,
        ErrorKind::Damaged,
        "the file `store` is not what this version writes. It keeps the floor under the tokens of removed keys, so it is \
         left as it is. If another version wrote it, use that one; otherwise make sure that nobody uses the directory, and \
         that the protected resources accept new tokens, then remove the directory",
    )
}

fn this_boot(directory: &Directory, options: &FileOptions) -> Result<(String, String)> {
    if let Some(id) = &options.boot_id {
        return Ok((id.clone(), String::new()));
    }
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = std::fs::read_to_string(path).map_err(|error| {
        if let Some(errno @ (Errno::MFILE | Errno::NFILE)) = Errno::from_io_error(&error) {
            return directory.failed("reading the id of this boot", errno);
        }
        wrong(
            &directory.endpoint,
            ErrorKind::Misconfigured,
            "the id of this boot could not be read from /proc/sys/kernel/random/boot_id: is /proc mounted?",
        )
        .caused_by(error)
    })?;
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Ok((id.trim().to_owned(), namespace.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_into_a_file_that_came_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let options = FileOptions::new();
        let directory = Directory::open(&path, &options).unwrap();
        let old = Epoch::open(&directory, &options).unwrap();
        assert!(old.raise(&directory, 1).unwrap().is_some());
        std::fs::rename(path.join("store"), path.join("aside")).unwrap();
        assert!(!old.is_in_place(&directory), "a file that was moved away has a name, but not this one");
        assert_eq!(*old.raise(&directory, 2).unwrap_err().kind(), ErrorKind::Damaged);
        let new = Epoch::open(&directory, &options).unwrap();
        let before = std::fs::read(path.join("store")).unwrap();
        assert_eq!(*old.raise(&directory, 3).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(std::fs::read(path.join("store")).unwrap(), before);
        assert!(new.is_in_place(&directory) && !old.is_in_place(&directory));
    }
}
