//! A file of two slots, open: read, written, and put in place whole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fdatasync, fstat, openat, openat2, renameat, statx,
    unlinkat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::directory::Access;
use crate::slots::{Header, Kind, Slot, Slots};
use crate::temporary;

/// An open file and its header, which never changes.
#[derive(Debug)]
pub(crate) struct SlotFile {
    file: OwnedFd,
    header: Header,
}

/// What was found under a name.
#[derive(Debug)]
pub(crate) enum Opened {
    Found(SlotFile),
    Absent,
    /// It has a name and no content. A file gets its name when it is whole: so a power loss came before the kernel had
    /// written it, or somebody emptied it.
    Unfilled {
        /// When it was last changed, in microseconds of the wall clock.
        changed: u64,
    },
    Damaged,
}

/// Whether a file has to be on the disk before it has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The kernel writes it when it sees fit, as it does with everything that is written later.
    Lazy,
    /// It takes the place of something older that must not be lost with it. Waits for the disk.
    Forced,
}

/// Opens a file of the store; no link is followed on the way.
pub(crate) fn open_at(parent: impl AsFd, path: &str, kind: Kind) -> rustix::io::Result<Opened> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat2(&parent, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Sandboxes may not know the newer call. The last component is guarded by the flag all the same.
        Err(Errno::NOSYS | Errno::PERM) => openat(&parent, path, flags, Mode::empty()),
        other => other,
    };
    let file = match file {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Opened::Absent),
        Err(errno) => return Err(errno),
    };
    let mut head = [0; 2048];
    let read = pread(&file, &mut head, 0)?;
    let head = &head[..read];
    let header = Header::parse(head);
    // The first slot is the first to be written, and begins in what was read.
    let content = header.as_ref().map_or(head, |header| &head[header.len..]);
    if content.iter().all(|&byte| byte == 0) {
        let stat = fstat(&file)?;
        let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
        return Ok(Opened::Unfilled { changed: seconds.saturating_mul(1_000_000) });
    }
    Ok(match header {
        Some(header) if header.kind == kind => Opened::Found(SlotFile { file, header }),
        _ => Opened::Damaged,
    })
}

/// Writes a whole file and puts it in place in one step, over whatever is there.
pub(crate) fn publish(
    parent: impl AsFd,
    path: &str,
    access: Access,
    header: Header,
    whole: &[u8],
    durability: Durability,
) -> rustix::io::Result<SlotFile> {
    let temporary = temporary::beside(Path::new(path));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&parent, &temporary, flags, access.file_mode())?;
    let placed = access
        .share(&file)
        .and_then(|()| write_all(&file, whole, 0))
        .and_then(|()| if durability == Durability::Forced { fdatasync(&file) } else { Ok(()) })
        .and_then(|()| renameat(&parent, &temporary, &parent, path));
    match placed {
        Ok(()) => Ok(SlotFile { file, header }),
        Err(errno) => {
            let _ = unlinkat(&parent, &temporary, AtFlags::empty());
            Err(errno)
        }
    }
}

impl SlotFile {
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Its device and number: which file it is, whatever it is called.
    pub(crate) fn identity(&self) -> rustix::io::Result<(u64, u64)> {
        fstat(&self.file).map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Whether a name still leads to it. One that was removed or replaced says no more.
    pub(crate) fn is_linked(&self) -> rustix::io::Result<bool> {
        // Asked for nothing but this: whoever looks at the times as well makes the kernel (6.13 and later) give the next
        // write a finer one of its own, and note it in the inode. A cycle took half as long again.
        match statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
            Ok(stat) => Ok(stat.stx_nlink > 0),
            // Sandboxes may not know the newer call.
            Err(Errno::NOSYS | Errno::PERM) => fstat(&self.file).map(|stat| stat.st_nlink > 0),
            Err(errno) => Err(errno),
        }
    }

    /// Reads both slots.
    pub(crate) fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> rustix::io::Result<Slots<'a>> {
        buffer.resize(2 * self.header.slot_size, 0);
        let read = pread(&self.file, &mut buffer[..], self.header.offset(0))?;
        Ok(self.header.slots(&buffer[..read]))
    }

    /// Writes the generation after this one, into the other slot. Only under the lock, and only what fits.
    pub(crate) fn write_after(&self, newest: &Slot<'_>, record: &[u8]) -> rustix::io::Result<()> {
        let slot = self.header.slot(newest.generation + 1, record);
        write_all(&self.file, &slot, self.header.offset(1 - newest.index))
    }
}

impl AsFd for SlotFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A short write is a full disk; the slot's checksum then fails, and the slot before stays in force.
fn write_all(file: &OwnedFd, bytes: &[u8], at: u64) -> rustix::io::Result<()> {
    match pwrite(file, bytes, at) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::NOSPC),
        Err(errno) => Err(errno),
    }
}
