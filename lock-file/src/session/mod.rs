//! A session of this process: a record that says until when it lives, and a pipe that says that its process does.

mod message;
mod pipe;
mod registry;
mod watch;

use std::os::fd::OwnedFd;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::records::RecordSession;
use lock_core::table::{SessionCommand, SessionRecord};
use lock_core::{Error, ErrorKind, EventSink, Operation, Reason, Result, SessionId, SessionOptions, Ticket};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

pub(crate) use self::registry::Sessions;
use self::watch::Watches;
use crate::directory::Directory;
use crate::keys::{Keys, Sweeper};
use crate::slot_file::{Durability, SlotFile, publish};
use crate::slots::{Header, Kind, Slot};

/// An open session.
#[derive(Debug)]
pub(crate) struct FileSession {
    id: SessionId,
    ttl: Duration,
    registry: Arc<Sessions>,
    keys: Arc<Keys>,
    sweeper: Arc<Sweeper>,
    file: SlotFile,
    state: Mutex<State>,
    sink: EventSink,
    runtime: Handle,
    reader: AbortHandle,
    watches: Arc<Watches>,
}

#[derive(Debug)]
struct State {
    record: SessionRecord,
    /// Where the newest generation is.
    slot: usize,
    generation: u64,
    /// Open for as long as the session lives.
    pipe: Option<OwnedFd>,
}

impl FileSession {
    /// Opens a session on the runtime that it is called on.
    pub(crate) fn open(
        registry: Arc<Sessions>,
        keys: Arc<Keys>,
        sweeper: Arc<Sweeper>,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<FileSession> {
        let directory = registry.directory();
        let failed = |what: &str, errno| directory.failed(what, errno).during(Operation::Open);
        let runtime = Handle::try_current().map_err(|error| no_runtime(directory).caused_by(error))?;
        let pipe = match pipe::make(directory, options.id) {
            Ok(pipe) => pipe,
            // An id is never used twice: this one's session was opened before, and has been dropped since.
            Err(Errno::EXIST) => {
                return Err(Error::session_lost(Reason::SessionEnded).at(&*directory.endpoint));
            }
            Err(errno) => return Err(failed("making a session's pipe", errno)),
        };
        let unless_opened = pipe::RemovedOnDrop::new(directory, options.id);
        let capacity =
            rustix::pipe::fcntl_getpipe_size(&pipe).map_err(|errno| failed("measuring a pipe", errno))?;
        // Tokio panics in a runtime without I/O, and can be asked in no other way.
        let reader = catch_unwind(|| pipe.try_clone().and_then(Receiver::from_owned_fd))
            .map_err(|_| no_runtime(directory))?
            .map_err(|error| {
                failed("listening to a pipe", Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
        let ttl = u64::try_from(options.ttl.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let record = SessionRecord::open(options.id, registry.epoch().now(), ttl, options.info.clone());
        let bytes = record.encode();
        let name = options.id.to_string();
        let header = Header::new(Kind::Session, &name, bytes.len());
        let whole = header.file(1, &bytes);
        // It dies with the machine, so its file may. Published when its pipe is open: so a session that can be met has a
        // living process.
        let file = publish(&directory.sessions, &name, directory.access, header, &whole, Durability::Lazy)
            .map_err(|errno| failed("making a session's record", errno))?;
        unless_opened.keep();
        let watches = Arc::new(Watches::default());
        let listening = pipe::listen(options.id, reader, capacity, sink.clone(), watches.clone());
        let reader = runtime.spawn(listening).abort_handle();
        Ok(FileSession {
            id: options.id,
            ttl: options.ttl,
            registry,
            keys,
            sweeper,
            file,
            state: Mutex::new(State { record, slot: 0, generation: 1, pipe: Some(pipe) }),
            sink,
            runtime,
            reader,
            watches,
        })
    }

    /// Another descriptor of the pipe: the session's process counts as living for as long as it is open anywhere.
    pub(crate) fn liveness_descriptor(&self) -> Option<OwnedFd> {
        self.state().pipe.as_ref().and_then(|pipe| pipe.try_clone().ok())
    }

    pub(crate) fn is_over(&self) -> bool {
        let state = self.state();
        !self.is_within(&state) || !self.file.is_linked().unwrap_or(true)
    }

    fn is_within(&self, state: &State) -> bool {
        !state.record.is_ended() && self.registry.epoch().now() < state.record.expires_at()
    }

    /// Moves the stamp. No lock is needed, because all processes of one machine read the same clock:
    ///
    /// Whoever judges this session expired read its record at or after the deadline in it (see `Sessions::sight`). The
    /// new stamp counts only if the old deadline had not come when its write was through. So nobody can have judged by
    /// the old one; or else the renewal does not count, and the session ends itself.
    fn renew_now(&self) -> Result<bool> {
        let mut state = self.state();
        if !self.registry.is_in_place() || !self.is_within(&state) {
            return self.end(&mut state).map(|()| false);
        }
        let mut record = state.record.clone();
        record.apply(self.registry.epoch().now(), SessionCommand::Renew);
        let newest = Slot { index: state.slot, generation: state.generation, bytes: &[] };
        self.file
            .write_after(&newest, &record.encode())
            .map_err(|errno| self.failed("renewing a session", errno))?;
        let linked = self.file.is_linked().map_err(|errno| self.failed("looking at a session", errno))?;
        // Still by the old stamp.
        if !linked || !self.is_within(&state) {
            return self.end(&mut state).map(|()| false);
        }
        state.record = record;
        state.slot = 1 - state.slot;
        state.generation += 1;
        Ok(true)
    }

    /// The record goes, and with it the right to be renewed; then the pipe is closed, which those notice who watch. A
    /// record that cannot be removed is over by its closed pipe.
    fn end(&self, state: &mut State) -> Result<()> {
        state.record.apply(0, SessionCommand::End);
        let removed = self.registry.end(self.id);
        state.pipe = None;
        self.reader.abort();
        self.watches.clear();
        removed
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        self.registry.directory().failed(what, errno)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_runtime(directory: &Directory) -> Error {
    let message = "a session is opened inside a Tokio runtime with I/O enabled (`enable_all`)";
    Error::new(ErrorKind::Misconfigured, message).at(&*directory.endpoint).during(Operation::Open)
}

#[async_trait]
impl RecordSession for FileSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&self) -> Result<bool> {
        let lives = self.renew_now()?;
        if lives {
            // Best effort: what is left is swept another time.
            let _ = self.sweeper.sweep(&self.keys, &self.registry);
        }
        Ok(lives)
    }

    async fn lives(&self) -> Result<bool> {
        let linked = self.file.is_linked().map_err(|errno| self.failed("looking at a session", errno))?;
        Ok(linked && self.is_within(&self.state()))
    }

    async fn close(&self) -> Result<()> {
        self.end(&mut self.state())?;
        if self.registry.is_in_place() {
            let _ = self.sweeper.sweep(&self.keys, &self.registry);
        }
        Ok(())
    }

    fn watch(&self, ticket: Ticket, sessions: &[SessionId]) {
        self.watches.watch(&self.runtime, &self.registry, &self.sink, ticket, sessions);
    }

    fn unwatch(&self, ticket: Ticket) {
        self.watches.unwatch(ticket);
    }
}

impl Drop for FileSession {
    fn drop(&mut self) {
        // Whoever meets the session ends it: without a reader its pipe says that it is over.
        self.reader.abort();
        self.watches.clear();
    }
}
