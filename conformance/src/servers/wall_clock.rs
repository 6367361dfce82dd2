//! [`WallClock`]: the wall clock as a server sees it.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{Error, ErrorKind, Result};
use tempfile::TempDir;

/// Where the count stands in the file that `wall_clock.c` reads.
const COUNT: u64 = 0;
/// Where the first of the two pairs stands, and how long a pair is.
const PAIRS: u64 = 8;
const PAIR: u64 = 16;

/// The wall clock of the servers that are started in its [`environment`](WallClock::environment). Clones are the same
/// clock; its files go with the last of them, so let one live as long as such a server.
///
/// It is a library that is preloaded, so it reaches programs that ask the C library for the time, as Redis, PostgreSQL
/// and Java do, but not those that ask the kernel by themselves, as Go's do.
#[derive(Clone, Debug)]
pub struct WallClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    library: PathBuf,
    path: PathBuf,
    file: File,
    shown: Mutex<Shown>,
    _directory: TempDir,
}

#[derive(Debug, Default)]
struct Shown {
    count: u64,
    offset: i64,
    stopped: i64,
}

impl WallClock {
    /// A clock that is right until it is told otherwise.
    ///
    /// # Errors
    /// The library cannot be compiled: it takes a C compiler.
    pub fn new() -> Result<WallClock> {
        let failed = |error| Error::unavailable("no files for a wall clock").caused_by(error);
        // For everybody: a server may run as another user.
        let everybody = Permissions::from_mode(0o755);
        let mut directory = tempfile::Builder::new();
        directory.prefix("wall-clock-").permissions(everybody);
        let directory = directory.tempdir().map_err(failed)?;
        let source = directory.path().join("wall_clock.c");
        let library = directory.path().join("wall_clock.so");
        let path = directory.path().join("cells");
        std::fs::write(&source, include_str!("wall_clock.c")).map_err(failed)?;
        compile(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]))?;
        let file = File::create_new(&path).map_err(failed)?;
        file.set_len(PAIRS + 2 * PAIR).map_err(failed)?;
        Ok(WallClock(Arc::new(Shared {
            library,
            path,
            file,
            shown: Mutex::default(),
            _directory: directory,
        })))
    }

    /// The variables that a server has to be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut preload = text(&self.0.library);
        if let Ok(others) = std::env::var("LD_PRELOAD") {
            preload = format!("{preload}:{others}");
        }
        vec![("LD_PRELOAD".to_owned(), preload), ("FENCEPOST_WALL_CLOCK".to_owned(), text(&self.0.path))]
    }

    /// Moves it, in microseconds; a negative number moves it back.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn step(&self, micros: i64) -> Result<()> {
        self.change(|shown| shown.offset = shown.offset.saturating_add(micros))
    }

    /// Stops it at this instant, in microseconds since 1970; at 0 it goes on.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn stop_at(&self, micros: u64) -> Result<()> {
        self.change(|shown| shown.stopped = i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Shows what another clock shows, which is off by so many microseconds, and may stand still.
    pub(crate) fn show(&self, offset: i64, stopped: u64) -> Result<()> {
        self.change(|shown| {
            shown.offset = offset;
            shown.stopped = i64::try_from(stopped).unwrap_or(i64::MAX);
        })
    }

    /// Fills the pair that is not in force, then counts. The count's other bytes may be seen a moment later than its last
    /// one; only that one picks the pair.
    fn change(&self, change: impl FnOnce(&mut Shown)) -> Result<()> {
        let failed = |error| Error::unavailable("a wall clock's file cannot be written").caused_by(error);
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shown);
        let count = shown.count + 1;
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&shown.offset.to_ne_bytes());
        pair[8..].copy_from_slice(&shown.stopped.to_ne_bytes());
        self.0.file.write_all_at(&pair, PAIRS + PAIR * (count & 1)).map_err(failed)?;
        self.0.file.write_all_at(&count.to_ne_bytes(), COUNT).map_err(failed)?;
        shown.count = count;
        Ok(())
    }
}

fn compile(compiler: &mut Command) -> Result<()> {
    let output = compiler.stdin(Stdio::null()).output().map_err(|error| {
        Error::new(
            ErrorKind::Misconfigured,
            "no C compiler for the wall clock: apt-get install gcc libc6-dev",
        )
        .caused_by(error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::new(ErrorKind::Misconfigured, format!("the wall clock does not compile: {complaint}")))
}
