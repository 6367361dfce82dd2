//! `fencepost run`: from the command line to the exit status.

use std::process::ExitCode;
use std::time::Duration;

use fencepost::backend::{BootTime, Clock, SystemClock};
use fencepost::{AcquireOptions, End, Guard, HoldState, LockKey, Mode, Note, Reason, Wait};

use rustix::process::Signal;

use crate::args::Run;
use crate::exit::{BUSY, Failure, LOST, SYSTEM, TIMED_OUT, USAGE, not_started};
use crate::interrupt::Interrupt;
use crate::link::{Manner, Start};
use crate::say::{self, Voice};
use crate::signals::Signals;
use crate::store::{Asked, Store};
use crate::supervise::{Ended, Supervision};
use crate::terminal::Terminal;
use crate::waiting::{Want, Wish};
use crate::ward::Ward;

/// How long the end of the session may take. What is not done by then is done by its TTL.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the command under the lock; its status, or why it has none.
pub(crate) fn run(on: Option<&str>, asked: &Run) -> ExitCode {
    let voice = Voice::new(asked.json);
    let key = LockKey::new(&asked.key);
    let result = key.clone().map_err(|error| Failure::of(&error, false)).and_then(|key| {
        // One thread: it starts sooner, and there is nothing to do for two.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| refused("start", &error))?.block_on(under_lock(on, asked, &key, voice))
    });
    if let Err(failure) = &result
        && (!asked.quiet || failure.busy.is_none() || voice.is_json())
    {
        voice.fail(key.as_ref().ok(), failure);
    }
    say::finish();
    let (code, interrupt) = match result {
        Ok(Done::Exit(code)) => (code, None),
        Ok(Done::Interrupted(interrupt)) => (interrupt.status(), Some(interrupt)),
        Err(failure) => (failure.code, while_waiting(&failure)),
    };
    if let Some(interrupt) = interrupt {
        interrupt.end();
    }
    ExitCode::from(code)
}

/// The terminal's interrupt that ended the waiting. All of its group have heard it.
fn while_waiting(failure: &Failure) -> Option<Interrupt> {
    let by_signal = failure.busy.is_none();
    Interrupt::of(failure.code, false).filter(|_| by_signal && Terminal::open().is_ours())
}

/// How this process is to end when all went well with the lock.
enum Done {
    Exit(u8),
    Interrupted(Interrupt),
}

async fn under_lock(on: Option<&str>, asked: &Run, key: &LockKey, voice: Voice) -> Result<Done, Failure> {
    let cannot = |error: std::io::Error| refused("start the guard process (by /proc/self/exe)", &error);
    let options = options(asked)?;
    let children = Signals::of_children().map_err(cannot)?;
    // First of all, so that it is ready when the lock is held.
    let mut ward = Ward::spawn(key.as_str(), &asked.command).map_err(cannot)?;
    let mut signals = Signals::catch(children).map_err(|error| refused("listen to signals", &error))?;
    let ttl = asked.ttl.map(|ttl| humantime::format_duration(ttl).to_string());
    let asked_of_store =
        Asked { on, ttl: ttl.as_deref(), name: asked.name.as_deref(), usual_name: &asked.program_name() };
    let store = signals.unless_ended(Store::connect(asked_of_store, voice)).await.map_err(interrupted)??;
    let wish = Wish {
        key,
        want: want(asked),
        wait: wait(asked),
        options,
        busy_code: asked.busy_code.unwrap_or(BUSY),
        in_directory: store.is_directory(),
    };
    let granted = signals.unless_ended(wish.fulfil(&store.client, voice)).await.map_err(interrupted);
    let guard = match granted.and_then(|granted| granted) {
        Ok(guard) => guard,
        Err(failure) => {
            store.client.shutdown(FAREWELL).await;
            return Err(failure);
        }
    };
    let ended = match until(&guard) {
        Some(told) => {
            let start = Start {
                token: guard.token().get(),
                mode: manner(guard.mode()),
                until: told,
                ttl: store.client.ttl(),
                grace: asked.grace,
            };
            if let Err(error) = ward.start(start, &store.alive()) {
                drop(guard);
                store.client.shutdown(FAREWELL).await;
                return Err(refused("tell the guard process to start (was it killed?)", &error));
            }
            // Not before: whoever is to read it may be slow, and the lease goes by.
            acquired(&guard, voice);
            let supervision = Supervision {
                ward: &ward,
                guard: &guard,
                signals: &mut signals,
                terminal: Terminal::open(),
                voice,
                timeout: asked.timeout,
                grace: asked.grace,
                told,
                is_suspending: false,
            };
            supervision.until_gone().await
        }
        None => Ended::NeverBegun,
    };
    let result = settle(ended, guard, asked, voice).await;
    store.client.shutdown(FAREWELL).await;
    ward.leave();
    result
}

/// Gives the lock back, and says what the exit status is.
async fn settle(ended: Ended, guard: Guard, asked: &Run, voice: Voice) -> Result<Done, Failure> {
    let key = guard.key().clone();
    let lost = |why: &dyn std::fmt::Display, what: &str| {
        Failure::new(LOST, format!("lost {key}: {why}; {what}. Look at what it did before you run it again"))
    };
    let is_lost = match ended {
        Ended::LeaseEnding | Ended::NeverBegun => {
            voice.lost(&key, Reason::Expired);
            true
        }
        Ended::Lost(_) => true,
        _ => false,
    };
    let released = guard.release().await;
    match &released {
        Ok(End::Released) if !is_lost => voice.released(&key),
        Ok(_) => {}
        Err(error) => voice.warn(format!("the lock ends with its lease, for its release failed: {error}")),
    }
    match (ended, released) {
        (Ended::Lost(reason), _) => Err(lost(&reason, "the command was ended")),
        (Ended::LeaseEnding, _) => {
            Err(lost(&"no renewal was acknowledged before its lease came to an end", "the command was ended"))
        }
        (Ended::NeverBegun, _) => Err(Failure::new(
            LOST,
            format!("lost {key}: its lease came to an end before the command was started; nothing was run"),
        )),
        (Ended::ByItself(_) | Ended::Interrupted(_), Ok(End::Lost(reason))) => {
            voice.lost(&key, reason);
            Err(lost(&reason, "the command had just ended by itself"))
        }
        (Ended::ByItself(code), _) => Ok(Done::Exit(code)),
        (Ended::Interrupted(interrupt), _) => Ok(Done::Interrupted(interrupt)),
        (Ended::NotStarted(errno), _) => {
            Err(not_started(asked.command.first().map_or("".as_ref(), |command| command), errno))
        }
        (Ended::TimedOut, _) => Err(Failure::new(
            TIMED_OUT,
            format!(
                "the command was ended: it ran for longer than --timeout {}",
                humantime::format_duration(asked.timeout.unwrap_or_default())
            ),
        )),
        (Ended::Unguarded, _) => Err(Failure::new(
            SYSTEM,
            "the guard process was killed, and the command was ended: nothing would have ended it with the lock any \
             more. Look at what it did before you run it again",
        )),
    }
}

fn acquired(guard: &Guard, voice: Voice) {
    let permits = match guard.mode() {
        Mode::Permits { held, of } => Some((held, of)),
        _ => None,
    };
    voice.acquired(guard.key(), guard.token().get(), manner(guard.mode()).as_str(), permits);
}

fn until(guard: &Guard) -> Option<BootTime> {
    match guard.state() {
        HoldState::Held { until } | HoldState::AtRisk { until } => Some(until),
        _ => None,
    }
    .filter(|&until| until > SystemClock::new().boot())
}

fn manner(mode: Mode) -> Manner {
    match mode {
        Mode::Shared => Manner::Shared,
        Mode::Permits { .. } => Manner::Permits,
        _ => Manner::Exclusive,
    }
}

fn want(asked: &Run) -> Want {
    match (asked.shared, asked.permits, asked.of) {
        (true, ..) => Want::Shared,
        (_, held, Some(of)) => Want::Permits { held: held.unwrap_or(1), of },
        _ => Want::Exclusive,
    }
}

fn wait(asked: &Run) -> Wait {
    match asked.wait {
        _ if asked.try_once => Wait::AtMost(Duration::ZERO),
        Some(patience) => Wait::AtMost(patience),
        None => Wait::Unbounded,
    }
}

fn options(asked: &Run) -> Result<AcquireOptions, Failure> {
    let mut options = AcquireOptions::new();
    if let Some(time) = asked.at_least {
        options = options.hold_at_least(time);
    }
    if let Some(note) = &asked.note {
        options = options.note(Note::new(note).map_err(|error| Failure::of(&error, false))?);
    }
    match (asked.permits, asked.of) {
        (Some(held), Some(of)) if held > of => Err(Failure::new(
            USAGE,
            format!("--permits {held} --of {of} can never be granted: ask for {of} at most; nothing was run"),
        )),
        _ => Ok(options),
    }
}

fn interrupted(signal: Signal) -> Failure {
    let code = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
    Failure::new(
        code,
        format!("ended by signal {} before the lock was granted; nothing was run", signal.as_raw()),
    )
}

fn refused(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(SYSTEM, format!("cannot {what}: {error}; nothing was run"))
}
