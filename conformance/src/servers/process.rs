//! [`Program`] and [`Server`]: one server's process, from its start to its certain end.
//!
//! Between a test and a server stands a small shell script, the guard. It is the server's parent, so it knows when the
//! server has really ended, and it holds a pipe from the test, so it knows when the test is gone: then it kills the server
//! and removes its directory. A test that is killed, even by `kill -9`, leaves nothing behind.

use std::future::Future;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::ending::Ending;
use super::family::{children, has_ended, signal_all, stands_still};
use super::island::Island;
use super::unprivileged::Unprivileged;
use super::waiting::until;

/// A server that does not answer in this time after its start has failed.
const START: Duration = Duration::from_secs(20);

/// For how long an end may take that was asked for.
pub(super) const END: Duration = Duration::from_secs(10);

/// Between two looks at something that is to happen.
const LOOK: Duration = Duration::from_millis(2);

/// How to start a server.
#[derive(Clone)]
pub struct Program {
    name: String,
    package: String,
    /// What comes before it in the command: a program that becomes this one.
    entry: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    user: Option<Unprivileged>,
    ending: Ending,
}

/// A server's process, or the first of several. Killed when this is dropped, or when this process dies.
#[derive(Debug)]
pub struct Server {
    name: String,
    pid: Pid,
    guard: Mutex<Child>,
    directory: PathBuf,
    ending: Ending,
}

impl Program {
    /// A program, started in a directory that is the server's own: its output goes to `server.log` there, and should this
    /// process be killed, the directory is removed.
    pub fn new(name: impl Into<String>, directory: impl Into<PathBuf>) -> Program {
        let name = name.into();
        Program {
            package: name.clone(),
            name,
            entry: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: directory.into(),
            user: None,
            ending: Ending::Process,
        }
    }

    /// What to install when there is no such program, where that is called otherwise.
    #[must_use]
    pub fn package(mut self, package: impl Into<String>) -> Program {
        self.package = package.into();
        self
    }

    /// Has it run on an island, which has to outlive it.
    #[must_use]
    pub fn on(mut self, island: &Island) -> Program {
        self.entry = island.entry().into();
        self
    }

    /// Whom it runs as, if that is not this process's user.
    #[must_use]
    pub(super) fn user(mut self, user: Unprivileged) -> Program {
        self.user = Some(user);
        self
    }

    /// How it ends.
    #[must_use]
    pub(super) fn ending(mut self, ending: Ending) -> Program {
        self.ending = ending;
        self
    }

    /// Adds arguments. Everybody on the machine can read them: a password belongs into a file.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets variables of its environment, which is otherwise this process's.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Program {
        self.environment.extend(variables.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Starts it, and waits until it is ready: an error of the probe means "not yet" too, and is told when time is up.
    pub async fn start<F>(&self, mut ready: impl FnMut() -> F) -> Result<Server>
    where
        F: Future<Output = Result<bool>> + Send,
    {
        let server = self.spawn().await?;
        let clock = SystemClock::new();
        let mut too_long = clock.sleep(START);
        let mut last = None;
        loop {
            let answer = tokio::select! {
                answer = ready() => answer,
                () = &mut too_long => return Err(server.failed("is not ready", last)),
            };
            // Also when the probe was content: somebody else's server may have answered it.
            if server.has_ended()? {
                return Err(server.failed("ended at once", None));
            }
            match answer {
                Ok(true) => return Ok(server),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            clock.sleep(LOOK * 5).await;
        }
    }

    async fn spawn(&self) -> Result<Server> {
        let guard = Command::new("/bin/sh")
            .args(["-c", include_str!("guard.sh"), "guard"])
            .arg(&self.directory)
            .arg(&self.name)
            .arg(self.ending.at_once().as_raw().to_string())
            .args(&self.entry)
            .args(self.user.map(Unprivileged::entry).unwrap_or_default())
            .arg(&self.name)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // The keyboard's interrupt is for the test; the guard has to outlive it.
            .process_group(0)
            .spawn()
            .map_err(|error| Error::unavailable(format!("cannot start {}", self.name)).caused_by(error))?;
        let mut starting = Starting(Some(guard));
        let word = starting.word().await?;
        if word == "missing" {
            let (name, package) = (&self.name, &self.package);
            return Err(Error::new(
                ErrorKind::Misconfigured,
                format!("there is no program {name}: apt-get install {package}"),
            ));
        }
        let pid = word.parse().ok().and_then(Pid::from_raw);
        match pid.zip(starting.0.take()) {
            Some((pid, guard)) => Ok(Server {
                name: self.name.clone(),
                pid,
                guard: Mutex::new(guard),
                directory: self.directory.clone(),
                ending: self.ending,
            }),
            None => Err(Error::unavailable(format!(
                "{}'s guard said {word:?} instead of a process id",
                self.name
            ))),
        }
    }
}

impl std::fmt::Debug for Program {
    /// Without the environment, where a password may be.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("name", &self.name)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The server's own process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it as `kill -9` does, with all its children, and waits until it is gone: its ports are free then.
    pub async fn kill(&self) -> Result<()> {
        if self.ending == Ending::Process {
            return self.end(Signal::KILL).await;
        }
        if self.has_ended()? {
            return Ok(());
        }
        self.comes_to_a_stand().await?;
        let children = self.children();
        signal_all(&children, Signal::KILL);
        self.end(Signal::KILL).await?;
        until("a server's children have ended", async || {
            Ok(children.iter().all(|child| has_ended(*child)).then_some(()))
        })
        .await
    }

    /// Asks it to end in an orderly way, and waits until it has.
    pub async fn terminate(&self) -> Result<()> {
        self.end(self.ending.orderly()).await
    }

    /// Stops it as `kill -STOP` does: its connections stay open, and nobody answers.
    pub fn stop(&self) -> Result<()> {
        // First: it has no more children then.
        self.signal(Signal::STOP)?;
        signal_all(&self.children(), Signal::STOP);
        Ok(())
    }

    /// Stops it, and waits until it and all its children stand still. It may have had another child before it heard.
    pub(super) async fn comes_to_a_stand(&self) -> Result<()> {
        until("all threads of a server stand still", async || {
            self.stop()?;
            let stands = stands_still(self.pid) && self.children().into_iter().all(stands_still);
            Ok(stands.then_some(()))
        })
        .await
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        signal_all(&self.children(), Signal::CONT);
        self.signal(Signal::CONT)
    }

    /// Whether it has ended, for whatever reason.
    pub fn has_ended(&self) -> Result<bool> {
        let ended = self.guard().try_wait();
        Ok(ended.map_err(|error| Error::unavailable("cannot ask for a process").caused_by(error))?.is_some())
    }

    /// What it has said last.
    pub fn last_words(&self) -> String {
        last_words(&self.directory)
    }

    async fn end(&self, signal: Signal) -> Result<()> {
        if self.has_ended()? {
            return Ok(());
        }
        self.signal(signal)?;
        let clock = SystemClock::new();
        let end = clock.boot() + END;
        while !self.has_ended()? {
            if clock.boot() > end {
                let message = format!("{} (process {}) does not end within {END:?}", self.name, self.pid());
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            clock.sleep(LOOK).await;
        }
        Ok(())
    }

    /// A number whose process has ended may be somebody else's by now: it is asked for first.
    fn signal(&self, signal: Signal) -> Result<()> {
        if self.has_ended()? {
            return Err(self.failed("has ended", None));
        }
        kill_process(self.pid, signal).map_err(|error| {
            Error::unavailable(format!("cannot send {signal:?} to process {}", self.pid())).caused_by(error)
        })
    }

    fn children(&self) -> Vec<Pid> {
        match self.ending {
            Ending::Process => Vec::new(),
            Ending::Postgres => children(self.pid),
        }
    }

    fn failed(&self, what: &str, cause: Option<Error>) -> Error {
        let error = Error::unavailable(format!("{} {what}; it said: {}", self.name, self.last_words()));
        match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }

    fn guard(&self) -> MutexGuard<'_, Child> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    /// Waits for the end, which takes some milliseconds: whoever owns the directory removes it next.
    fn drop(&mut self) {
        // An error here means that it has ended.
        if self.ending == Ending::Postgres {
            let _ = self.go_on();
        }
        let _ = self.signal(self.ending.at_once());
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.ending == Ending::Postgres {
            // It may be too young to hear that: the guard says it again.
            drop(guard.stdin.take());
        }
        bury(guard);
    }
}

/// A guard that has not yet said what it guards.
struct Starting(Option<Child>);

impl Starting {
    /// The one line that it says.
    async fn word(&mut self) -> Result<String> {
        let clock = SystemClock::new();
        let end = clock.boot() + END;
        let silent = || Error::unavailable("the guard of a server says nothing");
        let output = self.0.as_mut().and_then(|guard| guard.stdout.as_mut()).ok_or_else(silent)?;
        while !is_readable(&*output, Duration::ZERO) {
            if clock.boot() > end {
                return Err(silent());
            }
            clock.sleep(LOOK).await;
        }
        // Written at once, and much shorter than what a pipe takes.
        let mut line = [0; 64];
        let length = output.read(&mut line).map_err(|error| silent().caused_by(error))?;
        Ok(String::from_utf8_lossy(&line[..length]).trim().to_owned())
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut guard) = self.0.take() {
            // Its sign to kill whatever it has started.
            drop(guard.stdin.take());
            bury(&mut guard);
        }
    }
}

/// Waits for a guard, or another child of that kind, that is about to end. Its output ends with it, so that this wait can have a bound.
pub(super) fn bury(guard: &mut Child) {
    let ended = guard.stdout.as_mut().is_none_or(reads_to_end);
    if ended {
        let _ = guard.wait();
    }
}

fn reads_to_end(output: &mut (impl AsFd + Read)) -> bool {
    let mut rest = [0; 64];
    while is_readable(&*output, END) {
        match output.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    false
}

/// Whether there is something to read, or the end, within a time.
pub(super) fn is_readable(file: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    poll(&mut [PollFd::new(&file, PollFlags::IN)], limit.as_ref()).is_ok_and(|ready| ready > 0)
}

/// The end of a server's log.
fn last_words(directory: &Path) -> String {
    const LINES: usize = 8;
    let log = std::fs::read(directory.join("server.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() { "nothing".to_owned() } else { last.join("\n") }
}
