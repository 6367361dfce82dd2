//! A session's named pipe: open in its process for as long as it lives, and written to by whoever has news for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lock_core::{Event, EventSink, SessionId};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mknodat, openat, unlinkat};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;

use super::message;
use super::watch::Watches;
use crate::directory::Directory;

/// How a session's pipe looks from outside.
#[derive(Debug)]
pub(super) enum Pipe {
    /// Its process lives; this end can be written to.
    Open(OwnedFd),
    /// Nobody reads it: its process is gone.
    Deserted,
    Absent,
}

pub(super) fn name(session: SessionId) -> String {
    format!("{session}.pipe")
}

/// Makes a session's pipe and opens it for reading and writing: so it is never at its end while it is open.
pub(super) fn make(directory: &Directory, session: SessionId) -> rustix::io::Result<OwnedFd> {
    let name = name(session);
    mknodat(&directory.sessions, &*name, FileType::Fifo, directory.access.file_mode(), 0)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(&directory.sessions, &*name, flags, Mode::empty())
        .and_then(|pipe| directory.access.share(&pipe).map(|()| pipe));
    if opened.is_err() {
        let _ = unlinkat(&directory.sessions, &*name, AtFlags::empty());
    }
    opened
}

/// Removes a session's pipe again unless the session comes to be, also in a panic.
pub(super) struct RemovedOnDrop<'a>(Option<(&'a Directory, SessionId)>);

impl<'a> RemovedOnDrop<'a> {
    pub(super) fn new(directory: &'a Directory, session: SessionId) -> RemovedOnDrop<'a> {
        RemovedOnDrop(Some((directory, session)))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemovedOnDrop<'_> {
    fn drop(&mut self) {
        if let Some((directory, session)) = self.0 {
            let _ = unlinkat(&directory.sessions, &*name(session), AtFlags::empty());
        }
    }
}

/// Opens a session's pipe for writing. A writer keeps nobody alive: only readers count.
pub(super) fn open(directory: &Directory, session: SessionId) -> rustix::io::Result<Pipe> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&directory.sessions, &*name(session), flags, Mode::empty()) {
        Ok(pipe) => Ok(Pipe::Open(pipe)),
        Err(Errno::NXIO) => Ok(Pipe::Deserted),
        Err(Errno::NOENT) => Ok(Pipe::Absent),
        Err(errno) => Err(errno),
    }
}

/// Turns messages into events until it is aborted.
pub(super) async fn listen(
    session: SessionId,
    pipe: Receiver,
    capacity: usize,
    sink: EventSink,
    watches: Arc<Watches>,
) {
    let mut buffer = vec![0; capacity];
    loop {
        if pipe.readable().await.is_err() {
            // The runtime shuts down.
            return;
        }
        let read = match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                // Nothing more will come: the engine's own rechecks have to do.
                sink.send(Event::Gap);
                return;
            }
        };
        let mut complete = true;
        for message in message::decode_all(session, &buffer[..read]) {
            match message {
                Some(event) => {
                    // Whoever waits no longer has nobody to watch: the descriptor would be kept for as long as the hold.
                    if let Event::Granted { ticket, .. } | Event::Revoked(ticket, _) = event {
                        watches.unwatch(ticket);
                    }
                    sink.send(event);
                }
                None => complete = false,
            }
        }
        if !complete || may_have_been_full(read, capacity) {
            sink.send(Event::Gap);
        }
    }
}

/// Whether a pipe in which there was so much may have turned a message away.
///
/// The kernel puts a message into the last page only if it fits whole, and into a new one otherwise. The longest takes
/// less than half a page, so that every page of a full pipe is at least half full.
fn may_have_been_full(read: usize, capacity: usize) -> bool {
    // The smallest pages have 4096 bytes.
    const { assert!(message::LONGEST < 4096 / 2) };
    read >= capacity / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

    #[test]
    fn a_full_pipe_is_known_by_what_was_in_it_whatever_the_length_of_the_messages() {
        for length in 1..=message::LONGEST {
            let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
            let capacity = fcntl_getpipe_size(&reader).unwrap();
            let message = vec![1; length];
            while rustix::io::write(&writer, &message).is_ok() {}
            let read = rustix::io::read(&reader, &mut vec![0; capacity]).unwrap();
            assert!(may_have_been_full(read, capacity), "{read} of {capacity} by messages of {length}");
        }
    }
}
