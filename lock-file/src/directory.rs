//! The store's directory: made, opened, and refused where others could meddle with it.

use std::io::ErrorKind as IoErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lock_core::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, fchmod, fchown, fstat, fstatfs, mkdirat, openat, statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::failure::{failed, wrong};
use crate::{FileOptions, filesystem};

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
        let endpoint = format!("file://{}", path.display());
        let access = Access { group: options.group };
        let root = match open_dir(CWD, &path) {
            Err(Errno::NOENT) => make_root(&path, &endpoint, access)?,
            other => other.map_err(|errno| not_opened(&path, &endpoint, errno))?,
        };
        let stat = fstat(&root).map_err(|errno| failed(&endpoint, "looking at the directory", errno))?;
        access.judge(&stat, &endpoint)?;
        let file_system = fstatfs(&root)
            .map_err(|errno| failed(&endpoint, "asking for the directory's file system", errno))?
            .f_type;
        // The kernel's type is signed and of different widths; the numbers are 32 bits wide.
        let file_system = file_system as u64 & 0xFFFF_FFFF;
        if !filesystem::is_known(file_system) && !options.unsafe_fs {
            return Err(wrong(
                &endpoint,
                ErrorKind::Misconfigured,
                format!(
                    "the directory lies on {}, which is not known to lock and rename as this store needs it (network \
                     file systems do not). Use a local directory (ext4, xfs, btrfs, tmpfs, overlayfs, zfs), or another \
                     kind of store between machines; unsafe_fs=true accepts it at your own risk",
                    filesystem::name(file_system)
                ),
            ));
        }
        let half = |name: &str| -> Result<OwnedFd> {
            access
                .make_dir(&root, name)
                .map_err(|errno| failed(&endpoint, &format!("making {name}/"), errno))?;
            let dir =
                open_dir(&root, name).map_err(|errno| not_opened(&path.join(name), &endpoint, errno))?;
            let stat =
                fstat(&dir).map_err(|errno| failed(&endpoint, &format!("looking at {name}/"), errno))?;
            access.judge(&stat, &endpoint)?;
            Ok(dir)
        };
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

    /// Makes a directory inside the store, unless it is there.
    pub(crate) fn make_dir(self, parent: impl AsFd, name: &str) -> rustix::io::Result<()> {
        match mkdirat(&parent, name, self.dir_mode()) {
            Ok(()) if self.group.is_some() => self.share_dir(&open_dir(&parent, name)?),
            Err(Errno::EXIST) | Ok(()) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn share_dir(self, dir: &OwnedFd) -> rustix::io::Result<()> {
        if let Some(gid) = self.group {
            fchown(dir, None, Some(Gid::from_raw(gid)))?;
        }
        fchmod(dir, self.dir_mode())
    }

    fn judge(self, stat: &Stat, endpoint: &str) -> Result<()> {
        let denied = |message: String| Err(wrong(endpoint, ErrorKind::Denied, message));
        let mode = stat.st_mode & 0o7777;
        match self.group {
            None if stat.st_uid != geteuid().as_raw() => denied(format!(
                "the directory belongs to user {}, and this process runs as user {}: whoever owns it can end every lock. \
                 Use a directory of this user, or share one by the `group` option",
                stat.st_uid,
                geteuid().as_raw()
            )),
            None if mode & 0o022 != 0 => denied(format!(
                "the directory's mode is {mode:04o}: others may write to it, and could end every lock. chmod 700 it, or \
                 share it by the `group` option"
            )),
            Some(gid) if stat.st_gid != gid || mode & 0o2070 != 0o2070 || mode & 0o002 != 0 => {
                denied(format!(
                    "the directory belongs to group {} with mode {mode:04o}, and should belong to group {gid} with mode 2770: \
                 chgrp {gid} and chmod 2770 it and the directories in it",
                    stat.st_gid
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Opens a directory without following a link.
pub(crate) fn open_dir(parent: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, path, flags, Mode::empty())
}

fn make_root(path: &Path, endpoint: &str, access: Access) -> Result<OwnedFd> {
    let not_made = |error: std::io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        if errno == Errno::NOENT {
            return cannot_be_there(endpoint).caused_by(error);
        }
        failed(endpoint, "making the directory", errno)
    };
    if let Some(parent) = path.parent() {
        // As for a user's own state: nobody else has a business there.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(not_made)?;
    }
    let mut builder = std::fs::DirBuilder::new();
    let fresh = match builder.mode(0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == IoErrorKind::AlreadyExists => false,
        Err(error) => return Err(not_made(error)),
    };
    let root = open_dir(CWD, path).map_err(|errno| not_opened(path, endpoint, errno))?;
    if fresh {
        access.share_dir(&root).map_err(|errno| failed(endpoint, "setting the directory's mode", errno))?;
    }
    Ok(root)
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
