//! A directory of locks, and processes in it.

use std::fmt::Debug;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use fencepost::backend::{Clock, SystemClock};
use fencepost::{LockClient, LockState};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Lab {
    dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        Lab { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path("locks").display())
    }

    /// `fencepost run` with these words, in a shell's own words for the command.
    pub(crate) fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let mut program = self.fencepost();
        program.args(["--on", &self.url(), "run"]).args(options).arg("--").args(command);
        program
    }

    /// The binary, in the lab, without whatever the outside has set for it.
    pub(crate) fn fencepost(&self) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fencepost"));
        program.env_remove("FENCEPOST_URL").current_dir(self.dir.path()).stdin(Stdio::null());
        program
    }

    /// What `fencepost run` with these words does until its end.
    pub(crate) fn done(&self, options: &[&str], command: &[&str]) -> Done {
        Done::from(self.run(options, command).output().unwrap())
    }

    /// Starts it, in the background, with its output kept for later.
    pub(crate) fn start(&self, options: &[&str], command: &[&str]) -> Running {
        Running::start(&mut self.run(options, command))
    }

    /// A command that says that it runs and holds on until the gate is opened.
    pub(crate) fn hold(&self, options: &[&str], gate: &str) -> Running {
        self.make_gate(gate);
        let script = format!("echo {gate} >> log; cat {gate}.gate >/dev/null; echo {gate} ends >> log");
        self.start(options, &["sh", "-c", &script])
    }

    pub(crate) fn make_gate(&self, gate: &str) {
        let path = self.path(&format!("{gate}.gate"));
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }

    pub(crate) fn open_gate(&self, gate: &str) {
        drop(fs::OpenOptions::new().write(true).open(self.path(&format!("{gate}.gate"))).unwrap());
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.text("log").lines().map(str::to_owned).collect()
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_for(&self, line: &str) {
        eventually(&format!("the line {line:?} in the log"), || self.log().iter().any(|it| it == line));
    }

    /// The process that wrote its number into this file.
    pub(crate) fn pid(&self, name: &str) -> Pid {
        eventually(&format!("a process number in {name}"), || self.text(name).ends_with('\n'));
        Pid::from_raw(self.text(name).trim().parse().unwrap()).unwrap()
    }

    /// How the key stands.
    pub(crate) fn inspect(&self, key: &str) -> LockState {
        self.with_client(async |client| client.inspect(key).await.unwrap())
    }

    pub(crate) fn wait_for_queue(&self, key: &str, length: usize) {
        eventually(&format!("{length} waiters for {key}"), || self.inspect(key).queue.len() == length);
    }

    pub(crate) fn with_client<T>(&self, work: impl AsyncFnOnce(LockClient) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = fencepost::connect(&self.url()).await.unwrap();
            work(client).await
        })
    }
}

/// What a process left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// It exited so, and said so in one line.
    #[track_caller]
    pub(crate) fn assert_says(&self, code: i32, part: &str) {
        assert_eq!(self.code(), code, "{self:?}");
        let lines: Vec<_> = self.err.lines().filter(|line| line.starts_with("fencepost: ")).collect();
        assert_eq!(lines.len(), 1, "one line: {self:?}");
        assert!(lines[0].contains(part), "{part:?} in {self:?}");
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A process in the background. Killed when it is forgotten.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: (fs::File, fs::File),
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        // Files and not pipes: who reads a pipe to its end waits for whoever inherited it.
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let output = (out.try_clone().unwrap(), err.try_clone().unwrap());
        Running { child: command.stdout(out).stderr(err).spawn().unwrap(), output }
    }

    /// Starts it with its errors going elsewhere.
    pub(crate) fn start_with_error(command: &mut Command, error: OwnedFd) -> Running {
        let (out, none) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let output = (out.try_clone().unwrap(), none);
        Running { child: command.stdout(out).stderr(error).spawn().unwrap(), output }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn err_so_far(&self) -> String {
        all(&self.output.1)
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Done {
        let mut status = None;
        eventually("the end of a process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        Done { status: status.unwrap(), out: all(&self.output.0), err: all(&self.output.1) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all(file: &fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut text = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut text, 0).unwrap();
    String::from_utf8(text).unwrap()
}

/// Whether a process lives: one that only waits to be reaped does not.
pub(crate) fn lives(pid: Pid) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The process's state, as the system shows it.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The process's group.
pub(crate) fn group(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()?)
}

/// The children of a process.
pub(crate) fn children(of: Pid) -> Vec<Pid> {
    let of = of.as_raw_nonzero();
    let mut text = String::new();
    if let Ok(mut file) = fs::File::open(format!("/proc/{of}/task/{of}/children")) {
        file.read_to_string(&mut text).unwrap();
    }
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// The guard process of a `fencepost`.
pub(crate) fn guard_of(fencepost: Pid) -> Pid {
    let mut guards = Vec::new();
    eventually("a guard process", || {
        guards = children(fencepost);
        guards.len() == 1
    });
    guards[0]
}

#[expect(clippy::disallowed_methods, reason = "a test looks again and again, on a thread of its own")]
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    let deadline = clock.boot() + PATIENCE;
    while !happened() {
        assert!(clock.boot() < deadline, "{what} did not come in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long something takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let clock = SystemClock::new();
    let began = clock.boot();
    let result = work();
    (result, clock.boot().since(began))
}

/// Whether a program can be found here.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).exists())
}
