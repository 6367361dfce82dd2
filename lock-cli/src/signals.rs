//! [`Signals`]: those that are not left to do what they usually do.

use std::future::poll_fn;
use std::io::{self, Read};
use std::task::Poll;

use rustix::process::Signal as Named;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::process::is_orphaned;
use crate::ward::reap_orphans;

/// The ones that are passed on to the command.
const PASSED_ON: [Named; 9] = [
    Named::TERM,
    Named::INT,
    Named::HUP,
    Named::QUIT,
    Named::USR1,
    Named::USR2,
    Named::WINCH,
    Named::TSTP,
    Named::CONT,
];

/// The signals that came. While this exists they do nothing by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    sources: Vec<(Named, Signal)>,
    children: Signal,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Signal(Named),
    /// A child of this process ended.
    Child,
}

impl Signals {
    /// Catches them, but for those that were ignored when this process was started: so `nohup` stays what it is, and a
    /// shell's background job does not hear the terminal's interrupt.
    pub(crate) fn catch(children: Signal) -> io::Result<Signals> {
        let ignored = ignored();
        let caught = PASSED_ON.into_iter().filter(|named| ignored >> (named.as_raw() - 1) & 1 == 0);
        let sources = caught.map(|named| Ok((named, signal(SignalKind::from_raw(named.as_raw()))?)));
        Ok(Signals { sources: sources.collect::<io::Result<_>>()?, children })
    }

    /// The end of children, which has to be watched for before the first is started: if this process was told to ignore
    /// it, the system would reap them by itself, and nobody would learn their status.
    pub(crate) fn of_children() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// The next one.
    ///
    /// # Cancel Safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Came {
        poll_fn(|context| {
            for (named, source) in &mut self.sources {
                if source.poll_recv(context).is_ready() {
                    return Poll::Ready(Came::Signal(*named));
                }
            }
            self.children.poll_recv(context).map(|_| Came::Child)
        })
        .await
    }
}

impl Signals {
    /// Does something, unless a signal wants this process to end: then that signal.
    pub(crate) async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Named> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                came = self.next() => match came {
                    Came::Signal(Named::TSTP) if is_orphaned() => {}
                    Came::Signal(Named::TSTP) => stop(),
                    Came::Signal(Named::CONT | Named::WINCH) => {}
                    Came::Signal(signal) => return Err(signal),
                    Came::Child => reap_orphans(),
                },
            }
        }
    }
}

/// Stops this process, as the signal would have done; returns once it is continued.
fn stop() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Named::STOP);
}

/// The set of signals that this process ignores, as the system shows it: bit 0 is signal 1.
fn ignored() -> u64 {
    // In one read: it is far shorter, and this is on the way to every lock.
    let mut status = [0; 4096];
    let read = std::fs::File::open("/proc/self/status").and_then(|mut file| file.read(&mut status));
    let status = String::from_utf8_lossy(&status[..read.unwrap_or(0)]);
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}
