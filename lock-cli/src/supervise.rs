//! While the command runs: deadlines go to the guard, signals to the command, the terminal to whoever needs it.

use std::time::Duration;

use fencepost::backend::{BootTime, Clock, SystemClock};
use fencepost::{End, Guard, HoldState, Reason};
use rustix::process::{Pid, Signal, getpid, kill_current_process_group, kill_process};

use crate::group::Group;
use crate::interrupt::Interrupt;
use crate::link::{Order, Report};
use crate::process::is_orphaned;
use crate::say::Voice;
use crate::signals::{Came, Signals};
use crate::terminal::Terminal;
use crate::ward::{Ward, reap_orphans};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    ByItself(u8),
    /// By the terminal's interrupt or quit, of which those around it should hear as well.
    Interrupted(Interrupt),
    /// It could not be started.
    NotStarted(i32),
    /// It was ended, because the time given by `--timeout` was over.
    TimedOut,
    /// It was ended, because the lock was lost.
    Lost(Reason),
    /// It was ended, because the lease was about to.
    LeaseEnding,
    /// It was not even started: the lease was about to end.
    NeverBegun,
    /// It was ended, because the guard process was gone.
    Unguarded,
}

/// A command that was started.
pub(crate) struct Supervision<'a> {
    pub(crate) ward: &'a Ward,
    pub(crate) guard: &'a Guard,
    pub(crate) signals: &'a mut Signals,
    pub(crate) terminal: Terminal,
    pub(crate) voice: Voice,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    /// The deadline that the guard process knows.
    pub(crate) told: BootTime,
    /// The command was asked to stop.
    pub(crate) is_suspending: bool,
}

impl Supervision<'_> {
    /// Returns when nothing is left of the command's group.
    pub(crate) async fn until_gone(mut self) -> Ended {
        let clock = SystemClock::new();
        let mut extended = std::pin::pin!(self.guard.extended(self.told));
        let mut patience = std::pin::pin!(time_is_over(&clock, self.timeout));
        let (mut is_lost, mut is_late) = (None, false);
        let (mut group, mut status, mut interrupt) = (None, None, None);
        loop {
            tokio::select! {
                biased;
                report = self.ward.report() => match report {
                    Some(Report::Started(number)) => {
                        group = Pid::from_raw(number);
                        self.offer_terminal(group);
                    }
                    Some(Report::NotStarted(errno)) => return Ended::NotStarted(errno),
                    Some(Report::Stopped(signal)) => self.suspended(group, signal),
                    Some(Report::Exited { status: code, by_signal }) => {
                        status = Some(code);
                        if by_signal {
                            interrupt = self.interrupt(code);
                        }
                        self.terminal.take_back();
                        self.voice.child_exit(code);
                    }
                    Some(Report::Gone { by_deadline, strays }) => {
                        if strays {
                            self.voice.warn(
                                "a process that the command started has left its group (setsid) and goes on without the \
                                 lock: have it stay in front, as most daemons can",
                            );
                        }
                        return match (is_lost, status) {
                            (Some(reason), _) => Ended::Lost(reason),
                            _ if by_deadline && group.is_none() => Ended::NeverBegun,
                            _ if by_deadline => Ended::LeaseEnding,
                            _ if is_late => Ended::TimedOut,
                            (_, Some(code)) => interrupt.map_or(Ended::ByItself(code), Ended::Interrupted),
                            (None, None) => Ended::LeaseEnding,
                        };
                    }
                    None => {
                        self.end_unguarded(group).await;
                        return is_lost.map_or(Ended::Unguarded, Ended::Lost);
                    }
                },
                came = self.signals.next() => match came {
                    Came::Child => reap_orphans(),
                    Came::Signal(Signal::CONT) => self.resume(group),
                    Came::Signal(Signal::TSTP) => self.suspend(),
                    Came::Signal(signal) => self.ward.tell(Order::Signal(signal.as_raw())),
                },
                state = &mut extended, if is_lost.is_none() => match state {
                    HoldState::Held { until } | HoldState::AtRisk { until } => {
                        self.ward.tell(Order::Until(until));
                        extended.set(self.guard.extended(until));
                    }
                    HoldState::Ended(End::Lost(reason)) => {
                        is_lost = Some(reason);
                        self.voice.lost(self.guard.key(), reason);
                        self.ward.tell(Order::End);
                    }
                    // Nobody else releases it.
                    _ => is_lost = Some(Reason::Released),
                },
                () = &mut patience, if !is_late && status.is_none() => {
                    is_late = true;
                    self.ward.tell(Order::End);
                },
            }
        }
    }

    /// Was it stopped already for having read before it was in front, its stop is yet to be told. To continue it for that now
    /// could undo a Ctrl-Z.
    fn offer_terminal(&mut self, group: Option<Pid>) {
        let is_wanted = self.terminal.was_lent() || self.terminal.is_wanted();
        if let Some(group) = group.filter(|_| is_wanted) {
            self.terminal.lend(group);
        }
    }

    /// The terminal's Ctrl-Z, or somebody's kill. It is the command's stop that stops this process.
    fn suspend(&mut self) {
        self.is_suspending = true;
        self.ward.tell(Order::Signal(Signal::TSTP.as_raw()));
    }

    /// The command was stopped: for want of the terminal, which it gets; or by its user, who wants the shell back. The
    /// shell waits for this process, so this one stops, too.
    fn suspended(&mut self, group: Option<Pid>, signal: i32) {
        let by = |named: Signal| named.as_raw() == signal;
        let wants_terminal = by(Signal::TTIN) || by(Signal::TTOU);
        // It may have it by now: what is told here happened a moment ago.
        if group
            .is_some_and(|group| wants_terminal && (self.terminal.is_of(group) || self.terminal.lend(group)))
        {
            self.ward.tell(Order::Signal(Signal::CONT.as_raw()));
            return;
        }
        // Many programs stop themselves for good once they have tidied up, also a shell in the command's place.
        let by_user = by(Signal::TSTP) || by(Signal::STOP) && (self.is_suspending || self.terminal.is_lent());
        if !wants_terminal && !by_user {
            return;
        }
        self.is_suspending = false;
        if is_orphaned() {
            // Nobody could continue this process. What the system does for whom it finds stopped like that: it says that
            // the terminal is gone.
            if wants_terminal {
                self.ward.tell(Order::Signal(Signal::HUP.as_raw()));
            }
            self.ward.tell(Order::Signal(Signal::CONT.as_raw()));
            return;
        }
        // While the command was in front the others of this group, such as a script, have heard nothing.
        let are_others_unaware = self.terminal.is_lent();
        self.terminal.take_back();
        self.voice.warn(format!(
            "suspended; nothing renews the lock now, and the command is ended in {} unless it is continued before",
            rounded(self.guard.time_left())
        ));
        let _ = match Signal::from_named_raw(signal) {
            // As the system does it to a group in the background; a fencepost around this one learns what is wanted.
            Some(signal) if wants_terminal => kill_current_process_group(signal),
            _ if are_others_unaware => kill_current_process_group(Signal::STOP),
            _ => kill_process(getpid(), Signal::STOP),
        };
    }

    /// This process was continued.
    fn resume(&mut self, group: Option<Pid>) {
        self.is_suspending = false;
        self.offer_terminal(group);
        self.ward.tell(Order::Signal(Signal::CONT.as_raw()));
    }

    /// The terminal's signal that ended the command: only there do others wait for the same.
    fn interrupt(&self, status: u8) -> Option<Interrupt> {
        let is_unheard = self.terminal.is_lent();
        Interrupt::of(status, is_unheard).filter(|_| is_unheard || self.terminal.is_ours())
    }

    /// Does what the guard process can no longer do: something ended it, and only it.
    async fn end_unguarded(&mut self, leader: Option<Pid>) {
        let mut group = Group::orphaned(leader, self.ward.strangers());
        let clock = SystemClock::new();
        let kill_at = clock.boot() + self.grace.min(self.guard.time_left() / 10 * 9);
        let mut killed = false;
        group.signal(Signal::TERM);
        group.signal(Signal::CONT);
        loop {
            // Asked before anything is looked for: what the guard has not left yet cannot be found here.
            let has_come = self.ward.has_ended();
            reap_orphans();
            if !killed && clock.boot() >= kill_at {
                group.signal(Signal::KILL);
                killed = true;
            }
            if group.is_gone(killed) && !group.end_others(killed) && has_come {
                return;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn time_is_over(clock: &SystemClock, timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => clock.wake_at(clock.boot() + timeout).await,
        None => std::future::pending().await,
    }
}

fn rounded(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}
