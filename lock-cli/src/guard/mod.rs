//! The guard process: parent of the command, and the one who ends it.
//!
//! It knows nothing of stores. It runs the command in a process group of its own, hears each new deadline, and ends the
//! whole group when the deadline comes near or when `fencepost` is gone, which the end of their link says. No runtime, no
//! threads, no memory to speak of: it has to be quick to start and has to work on the worst day of the machine.

mod fuse;
mod orders;
mod program;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use fencepost::backend::{BootTime, Clock, SystemClock};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use self::fuse::{Due, Fuse};
use self::orders::{Heard, Orders};
pub(crate) use self::program::found;
use crate::group::{Group, News};
use crate::link::{Order, Report};

/// By this first word of its command line the program knows that it is the guard.
pub(crate) const NAME: &str = "fencepost-guard";

/// While the group ends it is looked at this often: not every end is told.
const LOOK: Duration = Duration::from_millis(20);
/// Who has to be looked for among all processes of the machine: their ends are told, for they are children here.
const LOOK_FOR_OTHERS: Duration = Duration::from_millis(100);

/// The system refused what the guard needs: as in sysexits.h.
const CANNOT: u8 = 71;

/// Runs a command once it is told to.
pub(crate) fn main(command: &[OsString]) -> ExitCode {
    match guard(command) {
        Ok(()) => ExitCode::SUCCESS,
        // `fencepost` sees the end of the link, and says so.
        Err(_) => ExitCode::from(CANNOT),
    }
}

fn guard(command: &[OsString]) -> Result<(), Errno> {
    // Whoever wants to end the command tells `fencepost`; a signal to everybody must not take the guard away. They stay
    // pending for ever. Blocked and not ignored: what the command inherits is what `fencepost` was started with.
    let usual = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(errno)?;
    let mut orders = Orders::open()?;
    // What the command's descendants leave behind is reaped here, also where process 1 does not reap.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // An end of file before: the lock was not granted, and there is nothing to guard.
    let Some((start, mut descriptors)) = orders.start()? else { return Ok(()) };
    if !descriptors.is_empty() {
        rustix::stdio::dup2_stdin(descriptors.remove(0))?;
    }
    // While they are open here, the session counts as living: its locks are not given on before the group has ended.
    let _alive = descriptors;
    let fuse = Fuse::new(start.until, start.ttl, start.grace);
    if fuse.due(now()).is_some() {
        return orders.report(Report::Gone { by_deadline: true, strays: false });
    }
    let children =
        SignalFd::with_flags(&SigSet::from(Named::SIGCHLD), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(errno)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let leader = match program::spawn(command, &start, &usual) {
        Ok(leader) => leader,
        Err(error) => return orders.report(Report::NotStarted(error.raw_os_error())),
    };
    let watch = Watch { orders, children, timer, fuse, group: Group::new(leader), by_deadline: false };
    // Whoever is not there to hear it is noticed by the end of the link.
    let _ = watch.orders.report(Report::Started(leader.as_raw_nonzero().get()));
    watch.until_gone()
}

/// A running command.
struct Watch {
    orders: Orders,
    children: SignalFd,
    timer: OwnedFd,
    fuse: Fuse,
    group: Group,
    by_deadline: bool,
}

impl Watch {
    fn until_gone(mut self) -> Result<(), Errno> {
        loop {
            self.reap();
            self.burn();
            let killed = self.fuse.has_killed();
            if self.group.is_gone(killed) && !self.group.end_others(killed) {
                let (by_deadline, strays) = (self.by_deadline, self.group.has_strays());
                let _ = self.orders.report(Report::Gone { by_deadline, strays });
                return Ok(());
            }
            self.wait()?;
            self.obey();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        while let Some(news) = self.group.reap() {
            let report = match news {
                News::Stopped(signal) => Report::Stopped(signal),
                News::Exited { status, by_signal } => Report::Exited { status, by_signal },
            };
            let _ = self.orders.report(report);
            if matches!(news, News::Exited { .. }) {
                self.end();
            }
        }
    }

    fn burn(&mut self) {
        match self.fuse.due(now()) {
            Some(Due::Term) => {
                self.by_deadline = true;
                self.end();
            }
            Some(Due::Kill) => {
                self.by_deadline |= self.fuse.is_past(now());
                self.group.signal(Signal::KILL);
                self.fuse.killed();
            }
            None => {}
        }
    }

    fn obey(&mut self) {
        while let Some(heard) = self.orders.next() {
            // Whoever was stopped has to be known before a signal is passed on.
            self.reap();
            match heard {
                Heard::Order(Order::Until(until)) => self.fuse.extend(until),
                // Who asks twice does not want to wait for the grace to pass.
                Heard::Order(Order::Signal(number)) if self.fuse.is_ending() && is_impatient(number) => {
                    self.fuse.hurry();
                }
                Heard::Order(Order::Signal(number)) => {
                    if let Some(signal) = Signal::from_named_raw(number) {
                        self.group.pass_on(signal);
                    }
                }
                Heard::Order(Order::End | Order::Start(_)) | Heard::Nobody => self.end(),
            }
        }
    }

    /// Asks the group to end, unless it was asked before.
    fn end(&mut self) {
        if self.fuse.end(now()) {
            self.group.signal(Signal::TERM);
            // A stopped process would not hear it.
            self.group.signal(Signal::CONT);
        }
    }

    /// Until an order, the end of a child, or an instant.
    fn wait(&self) -> Result<(), Errno> {
        let at = self.fuse.next(now(), if self.group.has_number() { LOOK } else { LOOK_FOR_OTHERS });
        let value = Timespec {
            tv_sec: i64::try_from(at.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX),
            // Not zero: that would switch it off.
            tv_nsec: (at.as_nanos() % 1_000_000_000).max(1) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        let (children, timer) = (self.children.as_fd(), self.timer.as_fd());
        let mut sources = [&children, &timer].map(|fd| PollFd::new(fd, PollFlags::IN)).to_vec();
        let link = self.orders.as_fd();
        sources.extend(link.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn is_impatient(signal: i32) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT].iter().any(|named| named.as_raw() == signal)
}

fn now() -> BootTime {
    SystemClock::new().boot()
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
