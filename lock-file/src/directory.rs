//! The store's directory: made, opened, and refused where others could meddle with it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lock_core::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, fchmod, fchown, fstat, fstatfs, mkdirat,
    openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::{failed, wrong};
use crate::{FileOptions, filesystem, temporary};

/// Who may do what with the files of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    group: Option<u32>,
}

/// The open directory and its two halves.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) access: Access,
    pub(crate) root: OwnedFd,
    pub(crate) keys: OwnedFd,
    pub(crate) sessions: OwnedFd,
    pub(crate) file_system: u64,
    identity: (u64, u64),
}

impl Directory {
    /// Opens it, or makes it if it is missing.
    pub(crate) fn open(path: &Path, options: &FileOptions) -> Result<Directory> {
        let path = std::path::absolute(path).map_err(|error| {
            Error::new(ErrorKind::Misconfigured, "the directory of a file store needs a path")
                .caused_by(error)
        })?;
        // A slash at its end would have a symbolic link followed.
        let path: PathBuf = path.components().collect();
        let endpoint = format!("file://{}", path.display());
        if options.group == Some(u32::MAX) {
            return Err(wrong(&endpoint, ErrorKind::Misconfigured, "no group has the number 4294967295"));
        }
        let access = Access { group: options.group };
        let root = match open_dir(CWD, &path) {
            Err(Errno::NOENT) => make_root(&path, &endpoint, access)?,
            other => other.map_err(|errno| not_opened(&path, &endpoint, errno))?,
        };
        let stat = fstat(&root).map_err(|errno| failed(&endpoint, "looking at the directory", errno))?;
        access.judge(&stat, "the directory", &endpoint)?;
        let file_system = known_file_system(&root, options, &endpoint)?;
        let half = |name| open_half(&root, &stat, name, &path, &endpoint, access);
        let (keys, sessions) = (half("keys")?, half("sessions")?);
        let directory = Directory {
            identity: (stat.st_dev, stat.st_ino),
            path,
            access,
            root,
            keys,
            sessions,
            file_system,
            endpoint: endpoint.clone(),
        };
        directory.refuse_folded_case()?;
        Ok(directory)
    }

    /// Whether the path still leads here: a directory that was moved away and replaced is another store.
    pub(crate) fn is_in_place(&self) -> bool {
        match statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (stat.st_dev, stat.st_ino) == self.identity,
            // A path that may not be looked at (any more) says nothing.
            Err(errno) => !matches!(errno, Errno::NOENT | Errno::NOTDIR),
        }
    }

    /// The error for a system call that failed here.
    pub(crate) fn failed(&self, what: &str, errno: Errno) -> Error {
        failed(&self.endpoint, what, errno)
    }

    fn refuse_folded_case(&self) -> Result<()> {
        if statat(&self.root, "KEYS", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(wrong(
                &self.endpoint,
                ErrorKind::Misconfigured,
                "the directory does not tell upper from lower case (ext4 casefold), so that two keys would be one: use \
                 another directory",
            ));
        }
        Ok(())
    }
}

impl Access {
    /// The mode of files and pipes.
    pub(crate) fn file_mode(self) -> Mode {
        Mode::from_raw_mode(if self.group.is_some() { 0o660 } else { 0o600 })
    }

    fn dir_mode(self) -> Mode {
        Mode::from_raw_mode(if self.group.is_some() { 0o2770 } else { 0o700 })
    }

    /// Gives a file that was just made to the group, whatever the umask took away.
    pub(crate) fn share(self, file: impl AsFd) -> rustix::io::Result<()> {
        if self.group.is_some() { fchmod(file, self.file_mode()) } else { Ok(()) }
    }

    /// Makes a directory, unless it is there. For a group it gets its name when its mode is right: one that a killed process
    /// left without would be closed to the others for ever.
    pub(crate) fn make_dir(self, parent: impl AsFd, path: impl AsRef<Path>) -> rustix::io::Result<()> {
        let path = path.as_ref();
        if self.group.is_none() {
            return unless_there(mkdirat(&parent, path, self.dir_mode()));
        }
        if statat(&parent, path, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(());
        }
        let temporary = temporary::beside(path);
        mkdirat(&parent, &temporary, self.dir_mode())?;
        let placed = open_dir(&parent, &temporary)
            .and_then(|dir| self.share_dir(&dir))
            // An empty directory would be replaced, and with it the lock that somebody has on it.
            .and_then(|()| renameat_with(&parent, &temporary, &parent, path, RenameFlags::NOREPLACE));
        if placed.is_err() {
            let _ = unlinkat(&parent, &temporary, AtFlags::REMOVEDIR);
        }
        match placed {
            // A file system that cannot rename so (zfs before 2.2). Whoever meets one that was left half made mends it.
            Err(Errno::INVAL | Errno::NOSYS) => mkdirat(&parent, path, self.dir_mode())
                .and_then(|()| open_dir(&parent, path))
                .and_then(|dir| self.share_dir(&dir)),
            other => unless_there(other),
        }
    }

    /// Opens a directory to the group that this user has made and that a killed process left closed.
    pub(crate) fn mend_dir(self, dir: &OwnedFd) -> rustix::io::Result<()> {
        let Some(gid) = self.group else { return Ok(()) };
        let stat = fstat(dir)?;
        let is_shared = stat.st_gid == gid && stat.st_mode & 0o2070 == 0o2070;
        if is_shared || stat.st_uid != geteuid().as_raw() { Ok(()) } else { self.share_dir(dir) }
    }

    fn share_dir(self, dir: &OwnedFd) -> rustix::io::Result<()> {
        if let Some(gid) = self.group {
            fchown(dir, None, Some(Gid::from_raw(gid)))?;
        }
        fchmod(dir, self.dir_mode())
    }

    /// Refuses the directory, or a part of it, where others could end locks.
    fn judge(self, stat: &Stat, what: &str, endpoint: &str) -> Result<()> {
        let denied = |message: String| Err(wrong(endpoint, ErrorKind::Denied, message));
        let mode = stat.st_mode & 0o7777;
        match self.group {
            None if stat.st_uid != geteuid().as_raw() => denied(format!(
                "{what} belongs to user {}, and this process runs as user {}: whoever owns it can end every lock. Use a \
                 directory of this user, or share one by the `group` option",
                stat.st_uid,
                geteuid().as_raw()
            )),
            None if mode & 0o022 != 0 => denied(format!(
                "{what} has mode {mode:04o}: others may write to it, and could end every lock. chmod 700 it, or share it \
                 by the `group` option"
            )),
            Some(gid) if stat.st_gid != gid || mode & 0o2070 != 0o2070 || mode & 0o002 != 0 => {
                denied(format!(
                    "{what} belongs to group {} with mode {mode:04o}, and should belong to group {gid} with mode 2770: \
                     chgrp {gid} and chmod 2770 it and the directories in it",
                    stat.st_gid
                ))
            }
            _ => Ok(()),
        }
    }

    /// As `judge`, and refuses what others may so much as open: that is enough to lock it, and to stop everybody.
    fn judge_half(self, stat: &Stat, what: &str, endpoint: &str) -> Result<()> {
        self.judge(stat, what, endpoint)?;
        let (others, right) = if self.group.is_some() { (0o007, "2770") } else { (0o077, "700") };
        if stat.st_mode & others != 0 {
            let mode = stat.st_mode & 0o7777;
            let message =
                format!("{what} has mode {mode:04o}: others could lock what is in it. chmod {right} it");
            return Err(wrong(endpoint, ErrorKind::Denied, message));
        }
        Ok(())
    }
}

fn unless_there(made: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if made == Err(Errno::EXIST) { Ok(()) } else { made }
}

/// Opens a directory without following a link.
pub(crate) fn open_dir(parent: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, path, flags, Mode::empty())
}

fn make_root(path: &Path, endpoint: &str, access: Access) -> Result<OwnedFd> {
    let not_made = |errno: Errno| match errno {
        Errno::NOENT => cannot_be_there(endpoint).caused_by(errno),
        errno => failed(endpoint, "making the directory", errno),
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        if access.group.is_some() {
            return Err(wrong(
                endpoint,
                ErrorKind::Misconfigured,
                format!(
                    "{} is missing. With the `group` option only the directory itself is made: make its parents first, so \
                     that the group may pass through them",
                    parent.display()
                ),
            ));
        }
        // As for a user's own state: nobody else has a business there.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|error| not_made(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    }
    access.make_dir(CWD, path).map_err(not_made)?;
    open_dir(CWD, path).map_err(|errno| not_opened(path, endpoint, errno))
}

/// The number of the root's file system, if that is one that can be used.
fn known_file_system(root: &OwnedFd, options: &FileOptions, endpoint: &str) -> Result<u64> {
    let stat =
        fstatfs(root).map_err(|errno| failed(endpoint, "asking for the directory's file system", errno))?;
    // The kernel's type is signed and of different widths; the numbers are 32 bits wide.
    let number = stat.f_type as u64 & 0xFFFF_FFFF;
    if filesystem::is_known(number) || options.unsafe_fs {
        return Ok(number);
    }
    Err(wrong(
        endpoint,
        ErrorKind::Misconfigured,
        format!(
            "the directory lies on {}, which is not known to lock and rename as this store needs it (network file systems \
             do not). Use a local directory (ext4, xfs, btrfs, tmpfs, overlayfs, zfs), or another kind of store between \
             machines; unsafe_fs=true accepts it at your own risk",
            filesystem::name(number)
        ),
    ))
}

/// Opens `keys` or `sessions`, or makes it.
fn open_half(
    root: &OwnedFd,
    of_root: &Stat,
    name: &str,
    path: &Path,
    endpoint: &str,
    access: Access,
) -> Result<OwnedFd> {
    access.make_dir(root, name).map_err(|errno| failed(endpoint, &format!("making {name}/"), errno))?;
    let half = open_dir(root, name).map_err(|errno| not_opened(&path.join(name), endpoint, errno))?;
    let stat = fstat(&half).map_err(|errno| failed(endpoint, &format!("looking at {name}/"), errno))?;
    access.judge_half(&stat, &format!("{name}/"), endpoint)?;
    if stat.st_dev != of_root.st_dev {
        return Err(wrong(
            endpoint,
            ErrorKind::Misconfigured,
            format!(
                "{name}/ lies on another file system than the directory it is in: mount the whole directory, not a part \
                 of it"
            ),
        ));
    }
    Ok(half)
}

/// What is missing above it was made, and yet it is not there: a file system without directories of users, such as /proc.
fn cannot_be_there(endpoint: &str) -> Error {
    wrong(
        endpoint,
        ErrorKind::Misconfigured,
        "the directory cannot be made there: use one on a disk, or below /dev/shm or /run",
    )
}

fn not_opened(path: &Path, endpoint: &str, errno: Errno) -> Error {
    let is_link = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    if is_link {
        return wrong(
            endpoint,
            ErrorKind::Misconfigured,
            format!("{} is a symbolic link: give the path that it points to", path.display()),
        );
    }
    failed(endpoint, &format!("opening {}", path.display()), errno)
}
