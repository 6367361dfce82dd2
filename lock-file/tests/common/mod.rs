//! What the tests of this crate share: clients over the backend traits, and children that can be killed.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Backend, Certainty, Claim, Claimed, Clock, Domain, Error, Event, EventSink, FencingToken, HolderInfo,
    LockKey, Mode, Permit, Released, Session, SessionId, SessionOptions, SystemClock, Ticket,
};
use lock_file::{FileOptions, FileStore};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A directory of its own, removed afterwards.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("locks")
    }

    /// The files below, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, out) } else { out.push(path) }
            }
        }
        let mut out = Vec::new();
        walk(&self.path(), &mut out);
        out.sort();
        out
    }

    pub(crate) fn key_files(&self) -> Vec<PathBuf> {
        self.files().into_iter().filter(|path| path.starts_with(self.path().join("keys"))).collect()
    }

    pub(crate) fn session_files(&self) -> Vec<PathBuf> {
        self.files().into_iter().filter(|path| path.starts_with(self.path().join("sessions"))).collect()
    }

    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        self.backend_with(FileOptions::new())
    }

    pub(crate) fn backend_with(&self, options: FileOptions) -> Arc<dyn Backend> {
        lock_file::backend(self.path(), options).unwrap()
    }
}

/// One session and its events.
pub(crate) struct Client {
    pub(crate) session: Arc<dyn Session>,
    pub(crate) events: UnboundedReceiver<Event>,
}

impl Client {
    pub(crate) async fn open(backend: &Arc<dyn Backend>, ttl: Duration) -> Client {
        Client::open_as(backend, SessionId::random().unwrap(), ttl).await
    }

    pub(crate) async fn open_as(backend: &Arc<dyn Backend>, id: SessionId, ttl: Duration) -> Client {
        let (send, events) = unbounded_channel();
        let sink = EventSink::new(move |event| {
            let _ = send.send(event);
        });
        let options = SessionOptions::new(id, Domain(0), ttl, HolderInfo::new(std::process::id()));
        Client { session: backend.open(&options, sink).await.unwrap().session, events }
    }

    /// Claims a mutex.
    pub(crate) async fn claim(&self, name: &str, ticket: u64, wait: bool) -> Claimed {
        self.session.claim(&mutex(name, ticket).waiting(wait)).await.unwrap()
    }

    /// Claims a mutex that must be free.
    pub(crate) async fn take(&self, name: &str, ticket: u64) -> FencingToken {
        granted(self.claim(name, ticket, false).await)
    }

    pub(crate) async fn release(&self, name: &str, ticket: u64) -> Released {
        self.session.release(&mutex(name, ticket).reference(), Certainty::Settled).await.unwrap()
    }

    pub(crate) async fn next_event(&mut self) -> Event {
        within("an event", self.events.recv()).await.unwrap()
    }

    /// Waits as an engine does: by events and rechecks.
    pub(crate) async fn acquire(&mut self, name: &str, ticket: u64) -> FencingToken {
        let clock = SystemClock::new();
        loop {
            let recheck_in = match self.claim(name, ticket, true).await {
                Claimed::Granted { token, .. } => return token,
                Claimed::Queued { recheck_in, .. } => recheck_in.unwrap_or(PATIENCE),
                other => panic!("{other:?}"),
            };
            tokio::select! {
                () = clock.sleep(recheck_in) => {}
                event = self.events.recv() => match event.unwrap() {
                    Event::Granted { ticket: granted, token, .. } if granted == Ticket(ticket) => return token,
                    _ => {}
                }
            }
        }
    }
}

pub(crate) fn mutex(name: &str, ticket: u64) -> Claim {
    Claim::new(LockKey::new(name).unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX)
}

#[track_caller]
pub(crate) fn granted(claimed: Claimed) -> FencingToken {
    match claimed {
        Claimed::Granted { token, .. } => token,
        other => panic!("not granted: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn queued(claimed: Claimed) -> Option<Duration> {
    match claimed {
        Claimed::Queued { recheck_in, .. } => recheck_in,
        other => panic!("not queued: {other:?}"),
    }
}

/// Awaits something that must happen soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::select! {
        done = future => done,
        () = SystemClock::new().sleep(PATIENCE) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Polls until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            SystemClock::new().sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// This test binary once more, running the test `child` with a task; it ends when dropped.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(place: &Place, task: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("LOCK_FILE_CHILD", task)
            .env("LOCK_FILE_DIR", place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Process { child, input, output: BufReader::new(output) }
    }

    /// The next line that the child said.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child ended without a word");
            if let Some((_, said)) = line.split_once("SAID ") {
                return said.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> bool {
        self.input.take();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: what it is to do, and where.
pub(crate) fn task() -> Option<(String, Arc<dyn Backend>)> {
    let task = std::env::var("LOCK_FILE_CHILD").ok()?;
    let dir = std::env::var("LOCK_FILE_DIR").unwrap();
    Some((task, lock_file::backend(dir, FileOptions::new()).unwrap()))
}

#[expect(clippy::print_stdout, reason = "the parent listens")]
pub(crate) fn say(words: impl std::fmt::Display) {
    println!("SAID {words}");
}

pub(crate) fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(crate) fn refused(path: impl AsRef<Path>, options: FileOptions) -> Error {
    FileStore::open(path, options).expect_err("it was opened")
}

pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

/// This test binary once more, running the test `child` as another user or under another program.
pub(crate) fn run_child_by(task: &str, dir: &Path, user: Option<u32>, wrapper: &[&str]) {
    // Where everybody may read it.
    let copy = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = copy.path().join("child");
    // By another process: a descriptor of ours, open for writing, could leak into what other tests start meanwhile.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    let program = program.to_str().unwrap();
    let words: Vec<_> = wrapper.iter().copied().chain([program, "--exact", "child"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("LOCK_FILE_CHILD", task).env("LOCK_FILE_DIR", dir);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
