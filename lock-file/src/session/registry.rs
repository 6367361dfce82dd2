//! Sessions as others see them: whether they live, how they are ended, what they are told.

use std::sync::Arc;
use std::time::Duration;

use lock_core::records::Sight;
use lock_core::table::{Notice, SessionRecord};
use lock_core::{Clock, ErrorKind, LockKey, Result, SessionId};
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::message;
use super::pipe::{self, Pipe};
use crate::directory::Directory;
use crate::epoch::Epoch;
use crate::failure::wrong;
use crate::slot_file::{Opened, open_at};
use crate::slots::Kind;
use crate::temporary::{ABANDONED, age, remove_abandoned};

/// For how long after its TTL a session is not ended yet: clocks are read in microseconds, rounded down.
const GRACE: u64 = 1_000;
/// How many entries one sweep looks at.
const BOUND: usize = 64;

/// The sessions of a store, of this process and of others.
#[derive(Debug)]
pub(crate) struct Sessions {
    directory: Arc<Directory>,
    epoch: Arc<Epoch>,
    clock: Arc<dyn Clock>,
}

impl Sessions {
    pub(crate) fn new(directory: Arc<Directory>, epoch: Arc<Epoch>, clock: Arc<dyn Clock>) -> Sessions {
        Sessions { directory, epoch, clock }
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Whether the directory and its clock are still those that everybody finds.
    pub(crate) fn is_in_place(&self) -> bool {
        self.directory.is_in_place() && self.epoch.is_in_place(&self.directory)
    }

    /// How a session looks. Changes nothing.
    pub(crate) fn sight(&self, session: SessionId) -> Result<Sight> {
        // The clock first, then the record. Whoever judges a session expired has therefore read its record at an
        // instant at or after the deadline in it; a renewal counts only if it was written before that deadline
        // (`FileSession::renew`), and so would have been read. The other way round, a renewal could slip in between.
        let now = self.epoch.now();
        let pipe = pipe::open(&self.directory, session)
            .map_err(|errno| self.directory.failed("opening a session's pipe", errno))?;
        let record = match (self.record(session)?, pipe) {
            (Found::Nothing, _) | (_, Pipe::Deserted) => return Ok(Sight::over()),
            // Without a pipe (somebody removed it) the lease alone decides.
            (Found::Record(record), Pipe::Open(_) | Pipe::Absent) => record,
            (Found::Damaged, Pipe::Open(_)) => return Err(self.damaged(session)),
            (Found::Damaged, Pipe::Absent) => return Err(self.damaged_without_pipe(session)),
        };
        if record.is_ended() || now >= record.expires_at().saturating_add(GRACE) {
            return Ok(Sight::over());
        }
        let remaining = Duration::from_micros(record.expires_at().saturating_sub(now));
        Ok(Sight::living(remaining, record.info().clone()))
    }

    /// Ends a session whose time is over. A session without its record is over for ever: it cannot be renewed.
    pub(crate) fn end_if_over(&self, session: SessionId) -> Result<bool> {
        let lives = self.sight(session)?.lives;
        if !lives {
            self.end(session)?;
        }
        Ok(lives)
    }

    /// The record goes first: a pipe without one says nothing.
    pub(super) fn end(&self, session: SessionId) -> Result<()> {
        for name in [session.to_string(), pipe::name(session)] {
            match unlinkat(&self.directory.sessions, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.directory.failed("removing a session that is over", errno)),
            }
        }
        Ok(())
    }

    /// Writes news to a session's pipe. A full one drops it: its reader then knows that something is missing.
    pub(crate) fn notify(&self, key: &LockKey, notice: &Notice) {
        let Some(message) = message::encode(key, notice) else { return };
        if let Ok(Pipe::Open(pipe)) = pipe::open(&self.directory, notice.session) {
            let _ = rustix::io::write(&pipe, &message);
        }
    }

    /// Removes some of what sessions left behind that nobody met again. Whatever fails is left to the next sweep.
    pub(crate) fn sweep(&self) -> Result<()> {
        for dir in [&self.directory.root, &self.directory.keys, &self.directory.sessions] {
            remove_abandoned(dir, &*self.clock);
        }
        let entries = Dir::read_from(&self.directory.sessions)
            .map_err(|errno| self.directory.failed("listing the sessions", errno))?;
        let mut names: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .collect();
        if names.len() > BOUND {
            // Not always the same ones.
            let start = self.clock.boot().as_nanos() as usize / 1000 % names.len();
            names.rotate_left(start);
        }
        for name in names.iter().take(BOUND) {
            let (id, is_pipe) = match name.strip_suffix(".pipe") {
                Some(id) => (id, true),
                None => (name.as_str(), false),
            };
            match id.parse() {
                // One that cannot be read must not keep the others from being swept.
                Ok(id) if is_pipe => drop(self.sweep_pipe(id)),
                Ok(id) => drop(self.end_if_over(id)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A pipe is there before its record is; young ones are left alone.
    fn sweep_pipe(&self, session: SessionId) -> Result<()> {
        let name = pipe::name(session);
        if self.is_abandoned(&name)
            && matches!(self.record(session)?, Found::Nothing)
            && matches!(pipe::open(&self.directory, session), Ok(Pipe::Deserted))
        {
            let _ = unlinkat(&self.directory.sessions, &*name, AtFlags::empty());
        }
        Ok(())
    }

    fn is_abandoned(&self, name: &str) -> bool {
        age(&self.directory.sessions, name, &*self.clock).is_ok_and(|age| age >= ABANDONED)
    }

    fn record(&self, session: SessionId) -> Result<Found> {
        let failed = |errno| self.directory.failed("reading a session's record", errno);
        let name = session.to_string();
        let file = match open_at(&self.directory.sessions, &name, Kind::Session).map_err(failed)? {
            Opened::Found(file) if file.header().name == name => file,
            Opened::Found(_) | Opened::Unfilled { .. } | Opened::Damaged => return Ok(Found::Damaged),
            Opened::Absent => return Ok(Found::Nothing),
        };
        let mut buffer = Vec::new();
        let mut tries = 0;
        loop {
            tries += 1;
            let slots = file.read(&mut buffer).map_err(failed)?;
            // Once its owner is through with a renewal, both slots are whole again.
            if slots.whole || tries == 20 {
                let record = slots.newest.and_then(|slot| SessionRecord::decode(slot.bytes).ok());
                return Ok(record
                    .filter(|record| record.id() == session)
                    .map_or(Found::Damaged, Found::Record));
            }
        }
    }

    fn damaged(&self, session: SessionId) -> lock_core::Error {
        wrong(
            &self.directory.endpoint,
            ErrorKind::Damaged,
            format!(
                "sessions/{session} is not what this version writes, and its process lives (look for it with `fuser -v \
                 {}`). If another version of this library wrote it, use that one everywhere; otherwise end that process",
                self.directory.path.join("sessions").join(pipe::name(session)).display()
            ),
        )
    }

    fn damaged_without_pipe(&self, session: SessionId) -> lock_core::Error {
        wrong(
            &self.directory.endpoint,
            ErrorKind::Damaged,
            format!(
                "sessions/{session} is not what this version writes, and its pipe is gone, so that nobody can say whether \
                 its process lives. If another version of this library wrote it, use that one everywhere; otherwise make \
                 sure that nothing is held by it, and remove {}",
                self.directory.path.join("sessions").join(session.to_string()).display()
            ),
        )
    }
}

enum Found {
    Record(SessionRecord),
    Nothing,
    Damaged,
}
