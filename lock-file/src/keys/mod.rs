//! The records of keys: one file each, read without a lock and replaced under one.

mod cache;
mod list;
mod path;
mod sweep;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lock_core::records::{Version, Versioned, Written};
use lock_core::{Clock, Error, ErrorKind, LockKey, Result};
use rustix::io::Errno;
use tokio::runtime::Handle;

use self::cache::{Cache, KeyFile};
pub(crate) use self::path::KeyPath;
pub(crate) use self::sweep::Sweeper;
use crate::directory::{Directory, open_dir};
use crate::epoch::Epoch;
use crate::failure::{stuck, wrong};
use crate::flock::{Patience, try_lock};
use crate::slot_file::{Durability, Opened, SlotFile, open_at, publish};
use crate::slots::{Header, Kind, Slot};

/// Marks the version of an absent record; the rest of it is the floor. So a record that was made, used and removed
/// between a reading and its write is noticed: its removal raised the floor.
const ABSENT: u128 = 1 << 127;

/// How often a reading without a lock is repeated while writers are at it.
const READINGS: usize = 20;

/// The keys of a store.
#[derive(Debug)]
pub(crate) struct Keys {
    directory: Arc<Directory>,
    epoch: Arc<Epoch>,
    clock: Arc<dyn Clock>,
    cache: Cache,
}

/// What one try came to.
enum Try<T> {
    Done(T),
    /// Somebody else is in this critical section.
    Busy(Section),
}

/// What somebody else may have locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    File,
    Shard,
}

/// Whether a record that has outgrown its file may be given a larger one, which waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Later,
    Now,
}

/// What one try to replace a record came to.
enum Replaced {
    Answer(Written),
    /// Into a larger file.
    Grown(SlotFile),
    /// It needs a larger file.
    TooLarge,
    /// The open file is no longer the key's.
    Stale,
    Busy,
}

impl Keys {
    pub(crate) fn new(directory: Arc<Directory>, epoch: Arc<Epoch>, clock: Arc<dyn Clock>) -> Keys {
        Keys { directory, epoch, clock, cache: Cache::default() }
    }

    /// Where a key's record is kept.
    pub(crate) fn place(&self, path: &KeyPath) -> String {
        self.directory.path.join("keys").join(path.as_str()).display().to_string()
    }

    /// A key's record.
    pub(crate) async fn read(&self, key: &LockKey) -> Result<Versioned> {
        let path = KeyPath::of(key);
        for _ in 0..READINGS {
            let Some(mut file) = self.open(&path)? else { return self.absent() };
            let slots =
                file.file.read(&mut file.buffer).map_err(|errno| self.failed("reading", &path, errno))?;
            // Two whole slots, or the older one might be all that is seen while two writers pass by.
            let read = match slots.newest {
                Some(slot) if slots.whole => Some(versioned(file.file.header(), &slot)),
                _ => None,
            };
            // Asked afterwards: what was read was in force until now.
            if !self.is_linked(&file, &path)? {
                continue;
            }
            self.cache.put(&path, file);
            if let Some(read) = read {
                return Ok(read);
            }
        }
        self.settled(&path, |keys| keys.read_locked(&path)).await
    }

    /// Replaces a key's record if its version is the expected one.
    pub(crate) async fn write(
        self: &Arc<Self>,
        key: &LockKey,
        expected: Version,
        record: &[u8],
    ) -> Result<Written> {
        let path = KeyPath::of(key);
        if expected.0 & ABSENT != 0 {
            return self.settled(&path, |keys| keys.create(&path, expected, record)).await;
        }
        let replaced =
            self.settled(&path, |keys| keys.replace(&path, expected, record, Growth::Later)).await?;
        match replaced {
            Some(written) => Ok(written),
            // Boxed: it is rare, and would make every write's future larger.
            None => Box::pin(self.enlarge(path, expected, record.to_vec())).await,
        }
    }

    /// Replaces a record that has outgrown its file, on a thread that may wait for the disk. Whoever drops this future
    /// loses the answer only, as with a store on another machine: the version still guards the write.
    async fn enlarge(self: &Arc<Self>, path: KeyPath, expected: Version, record: Vec<u8>) -> Result<Written> {
        let keys = self.clone();
        let grown = async move {
            let grown =
                keys.settled(&path, |keys| keys.replace(&path, expected, &record, Growth::Now)).await?;
            grown.ok_or_else(|| Error::unavailable(format!("{} could not be enlarged", keys.place(&path))))
        };
        // Without a runtime there is nobody to be kept waiting.
        let Ok(runtime) = Handle::try_current() else { return grown.await };
        let on_its_own = runtime.clone();
        runtime.spawn_blocking(move || on_its_own.block_on(grown)).await.unwrap_or_else(|error| {
            Err(Error::unavailable("the runtime ended while a key's file was enlarged").caused_by(error))
        })
    }

    /// Tries until nobody else is in the critical section. Nothing is kept open in the meantime.
    async fn settled<T>(&self, path: &KeyPath, mut once: impl FnMut(&Keys) -> Result<Try<T>>) -> Result<T> {
        let mut patience = Patience::new(&*self.clock);
        loop {
            let section = match once(self)? {
                Try::Done(done) => return Ok(done),
                Try::Busy(section) => section,
            };
            if !patience.pause().await {
                let place = match section {
                    Section::File => self.place(path),
                    Section::Shard => {
                        self.directory.path.join("keys").join(path.shard()).display().to_string()
                    }
                };
                return Err(stuck(&self.directory.endpoint, &place));
            }
        }
    }

    fn read_locked(&self, path: &KeyPath) -> Result<Try<Versioned>> {
        let Some(mut file) = self.open(path)? else { return self.absent().map(Try::Done) };
        let read = {
            let Some(_lock) = try_lock(&file.file).map_err(|errno| self.failed("locking", path, errno))?
            else {
                return Ok(Try::Busy(Section::File));
            };
            if !self.is_linked(&file, path)? {
                return Ok(Try::Busy(Section::File));
            }
            let slots =
                file.file.read(&mut file.buffer).map_err(|errno| self.failed("reading", path, errno))?;
            let newest = slots.newest.ok_or_else(|| self.damaged(path))?;
            versioned(file.file.header(), &newest)
        };
        self.cache.put(path, file);
        Ok(Try::Done(read))
    }

    /// `None` when the record has outgrown its file and that is for later.
    fn replace(
        &self,
        path: &KeyPath,
        expected: Version,
        record: &[u8],
        growth: Growth,
    ) -> Result<Try<Option<Written>>> {
        let Some(mut file) = self.open(path)? else {
            return Ok(Try::Done(Some(Written::Conflict(self.absent()?))));
        };
        let replaced = match self.replace_in(&mut file, path, expected, record, growth)? {
            Replaced::Stale => return Ok(Try::Busy(Section::File)),
            Replaced::Busy => Try::Busy(Section::File),
            Replaced::Answer(written) => Try::Done(Some(written)),
            Replaced::TooLarge => Try::Done(None),
            Replaced::Grown(grown) => {
                file.file = grown;
                Try::Done(Some(Written::Done))
            }
        };
        self.cache.put(path, file);
        Ok(replaced)
    }

    fn replace_in(
        &self,
        file: &mut KeyFile,
        path: &KeyPath,
        expected: Version,
        record: &[u8],
        growth: Growth,
    ) -> Result<Replaced> {
        let KeyFile { file, buffer } = file;
        let Some(_lock) = try_lock(file).map_err(|errno| self.failed("locking", path, errno))? else {
            return Ok(Replaced::Busy);
        };
        // Removed or replaced before we had the lock: the next try opens what is there now.
        if !file.is_linked().map_err(|errno| self.failed("looking at", path, errno))? {
            return Ok(Replaced::Stale);
        }
        let slots = file.read(buffer).map_err(|errno| self.failed("reading", path, errno))?;
        let newest = slots.newest.ok_or_else(|| self.damaged(path))?;
        if version(file.header(), newest.generation) != expected {
            return Ok(Replaced::Answer(Written::Conflict(versioned(file.header(), &newest))));
        }
        if record.len() > file.header().room() {
            if growth == Growth::Later {
                return Ok(Replaced::TooLarge);
            }
            // Renamed over the old file while that one is locked: whoever waits for it sees that it was replaced.
            let header = Header::new(Kind::Key, path.encoded(), record.len());
            let whole = header.file(newest.generation + 1, record);
            return self
                .publish(path, header, &whole, Durability::Forced)
                .map(Replaced::Grown)
                .map_err(|errno| self.failed("enlarging", path, errno));
        }
        file.write_after(&newest, record).map_err(|errno| self.failed("writing", path, errno))?;
        Ok(Replaced::Answer(Written::Done))
    }

    fn create(&self, path: &KeyPath, expected: Version, record: &[u8]) -> Result<Try<Written>> {
        let shard = self.open_shard(path)?;
        // Under the shard's lock, as removal is: so nobody can make, use and remove this record while we look.
        let Some(_lock) =
            try_lock(&shard).map_err(|errno| self.failed("locking the shard of", path, errno))?
        else {
            return Ok(Try::Busy(Section::Shard));
        };
        if self.open(path)?.map(|file| self.cache.put(path, file)).is_some() {
            return Ok(match self.read_locked(path)? {
                Try::Done(found) => Try::Done(Written::Conflict(found)),
                Try::Busy(section) => Try::Busy(section),
            });
        }
        let absent = self.absent()?;
        if absent.version != expected {
            return Ok(Try::Done(Written::Conflict(absent)));
        }
        for directory in path.directories() {
            let made = self.directory.access.make_dir(&self.directory.keys, directory);
            made.map_err(|errno| self.failed("making the directory of", path, errno))?;
        }
        let header = Header::new(Kind::Key, path.encoded(), record.len());
        let whole = header.file(1, record);
        // Not forced: a power loss can leave its name without its content, which is then known to be older than the boot.
        let file = self
            .publish(path, header, &whole, Durability::Lazy)
            .map_err(|errno| self.failed("making", path, errno))?;
        self.cache.put(path, KeyFile { file, buffer: Vec::new() });
        Ok(Try::Done(Written::Done))
    }

    fn publish(
        &self,
        path: &KeyPath,
        header: Header,
        whole: &[u8],
        durability: Durability,
    ) -> rustix::io::Result<SlotFile> {
        publish(&self.directory.keys, path.as_str(), self.directory.access, header, whole, durability)
    }

    fn open_shard(&self, path: &KeyPath) -> Result<OwnedFd> {
        let (access, keys) = (self.directory.access, &self.directory.keys);
        let opened = match open_dir(keys, path.shard()) {
            Err(Errno::NOENT) => {
                access.make_dir(keys, path.shard()).and_then(|()| open_dir(keys, path.shard()))
            }
            other => other,
        };
        opened
            .and_then(|shard| access.mend_dir(&shard).map(|()| shard))
            .map_err(|errno| self.failed("opening the shard of", path, errno))
    }

    /// A key's file out of the cache, or opened; `None` when there is none.
    fn open(&self, path: &KeyPath) -> Result<Option<KeyFile>> {
        if let Some(file) = self.cache.take(path) {
            return Ok(Some(file));
        }
        let mut opened = open_at(&self.directory.keys, path.as_str(), Kind::Key);
        // What is kept open is a reserve: a process without descriptors must still be able to verify all of its holds.
        while matches!(opened, Err(Errno::MFILE | Errno::NFILE)) && self.cache.give_up_one() {
            opened = open_at(&self.directory.keys, path.as_str(), Kind::Key);
        }
        match opened {
            Ok(Opened::Found(file)) if file.header().name == path.encoded() => {
                Ok(Some(KeyFile { file, buffer: Vec::new() }))
            }
            Ok(Opened::Found(_)) => Err(wrong(
                &self.directory.endpoint,
                ErrorKind::Misconfigured,
                format!(
                    "{} is the file of another key: the file system takes two names for one, or somebody renamed it. \
                     Nothing was changed; use a directory that tells all names apart",
                    self.place(path)
                ),
            )),
            Ok(Opened::Absent) => Ok(None),
            // Made just before a power loss, and lost by it: the key begins anew, above the clock.
            Ok(Opened::Unfilled { changed }) if self.epoch.is_before_boot(changed) => Ok(None),
            Ok(Opened::Unfilled { .. } | Opened::Damaged) => Err(self.damaged(path)),
            Err(errno) => Err(self.failed("opening", path, errno)),
        }
    }

    /// The floor is read after the file was found absent: whoever removed it raised the floor before.
    fn absent(&self) -> Result<Versioned> {
        let floor = self.epoch.floor(&self.directory)?;
        Ok(Versioned { version: Version(ABSENT | u128::from(floor)), bytes: Vec::new(), floor })
    }

    fn is_linked(&self, file: &KeyFile, path: &KeyPath) -> Result<bool> {
        file.file.is_linked().map_err(|errno| self.failed("looking at", path, errno))
    }

    fn damaged(&self, path: &KeyPath) -> Error {
        wrong(
            &self.directory.endpoint,
            ErrorKind::Damaged,
            format!(
                "{} is not what this version writes. It is left as it is, for its fencing token must not be forgotten. \
                 If another version of this library \
                 wrote it, use that one; otherwise make sure that nobody holds the lock, and that the protected resource \
                 accepts a new token, then remove it",
                self.place(path)
            ),
        )
    }

    fn failed(&self, what: &str, path: &KeyPath, errno: Errno) -> Error {
        self.directory.failed(&format!("{what} {}", self.place(path)), errno)
    }
}

fn version(header: &Header, generation: u64) -> Version {
    Version(u128::from(header.incarnation) << 64 | u128::from(generation))
}

fn versioned(header: &Header, slot: &Slot<'_>) -> Versioned {
    Versioned { version: version(header, slot.generation), bytes: slot.bytes.to_vec(), floor: 0 }
}
