//! A session's named pipe: open in its process for as long as it lives, and written to by whoever has news for it.

use std::os::fd::OwnedFd;

use lock_core::{Event, EventSink, SessionId};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mknodat, openat, unlinkat};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;

use super::message;
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
pub(super) async fn listen(session: SessionId, pipe: Receiver, capacity: usize, sink: EventSink) {
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
                Some(event) => sink.send(event),
                None => complete = false,
            }
        }
        // A full pipe may have turned others away.
        if !complete || read + message::LONGEST > capacity {
            sink.send(Event::Gap);
        }
    }
}
