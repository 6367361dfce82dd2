//! [`Ward`]: the guard process, as `fencepost` sees it.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, IoSlice, Result, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, set_child_subreaper, wait,
};
use tokio::net::UnixStream;

use crate::guard;
use crate::link::{Order, Report, SIZE, Start};
use crate::process::children;

/// A guard process: it waits for the order to start, then for the command to end.
#[derive(Debug)]
pub(crate) struct Ward {
    process: Child,
    /// Its number may belong to another by the time it is wanted: who reaps orphans reaps this one, too.
    handle: Option<OwnedFd>,
    link: UnixStream,
    strangers: Vec<Pid>,
    started: bool,
}

impl Ward {
    /// Starts the guard of a command. It gets ready while the lock is being acquired.
    pub(crate) fn spawn(key: &str, command: &[OsString]) -> Result<Ward> {
        // For the day when the guard is killed: its children come here, and their end can be seen.
        set_child_subreaper(Some(rustix::process::getpid()))?;
        let strangers = children();
        let (link, its_end) = std::os::unix::net::UnixStream::pair()?;
        let mut program = Command::new("/proc/self/exe");
        program.arg0(guard::NAME).args(command).env("FENCEPOST_KEY", key).stdin(OwnedFd::from(its_end));
        // Out of reach of what the terminal sends to the group in front.
        let process = program.process_group(0).spawn()?;
        link.set_nonblocking(true)?;
        let handle = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).ok();
        Ok(Ward { process, handle, link: UnixStream::from_std(link)?, strangers, started: false })
    }

    /// Has the command run.
    pub(crate) fn start(&mut self, start: Start, alive: &[OwnedFd]) -> Result<()> {
        self.started = true;
        let stdin = stdin();
        let mut descriptors = vec![stdin.as_fd()];
        descriptors.extend(alive.iter().map(AsFd::as_fd));
        let mut space =
            vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1)) + 8 * descriptors.len()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Error::other("too many open sessions to hand on"));
        }
        let message = Order::Start(start).encode();
        let sent = sendmsg(&self.link, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent == SIZE { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Tells it something. Best effort: one that is gone is noticed by the end of its reports, and one that is stopped
    /// and has its link full of deadlines ends the command by the last that it read.
    pub(crate) fn tell(&self, order: Order) {
        let _ = self.link.try_write(&order.encode());
    }

    /// Its next report; `None` when there will be none.
    ///
    /// # Cancel Safety
    /// Dropping the future loses nothing.
    pub(crate) async fn report(&self) -> Option<Report> {
        let mut message = [0; SIZE];
        loop {
            self.link.readable().await.ok()?;
            match self.link.try_read(&mut message) {
                Ok(SIZE) => return Report::decode(&message),
                Ok(_) => return None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether it has ended, and what it leaves behind has come here.
    pub(crate) fn has_ended(&self) -> bool {
        // Without a handle the end of its reports has to do.
        let Some(handle) = &self.handle else { return true };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Children of this process that were there before the guard: whoever became `fencepost` by exec may have some.
    pub(crate) fn strangers(&self) -> Vec<Pid> {
        self.strangers.clone()
    }

    /// Waits for its end, which is near if it was ever started.
    pub(crate) fn leave(mut self) {
        if self.started {
            // Process 1 may have reaped it already.
            let _ = self.process.wait();
        }
    }
}

impl Drop for Ward {
    /// It has nothing to guard, unless it was started; then it sees the end of the link.
    fn drop(&mut self) {
        if let Some(handle) = self.handle.as_ref().filter(|_| !self.started) {
            let _ = pidfd_send_signal(handle, Signal::KILL);
            let _ = self.process.wait();
        }
    }
}

/// Reaps whoever was left to this process by a parent that ended: the command's processes, if it was the guard that ended,
/// and as process 1 of a container everybody's.
///
/// The guard's status is nothing that anybody asks for, so that it does not matter who reaps it.
pub(crate) fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
