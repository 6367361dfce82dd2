//! PostgreSQL's programs: where they are, and those that run for a moment only.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where Debian has them, a directory for each version: it puts only the clients on the path.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A program of PostgreSQL.
///
/// # Errors
/// It is not installed.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    // Those beside the server first: another `psql` may be of another version, or a script that looks for one.
    let beside = server_directory().map(|directory| directory.join(name)).filter(|path| path.is_file());
    beside.or_else(|| on_path(name)).ok_or_else(|| missing(name, "postgresql"))
}

/// A program on the path, or among those of root, which the path of others lacks.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

pub(super) fn missing(name: &str, package: &str) -> Error {
    let message = format!("there is no program {name}: apt-get install {package}");
    Error::new(ErrorKind::Misconfigured, message)
}

fn server_directory() -> Option<PathBuf> {
    let found = on_path("postgres").and_then(|path| path.canonicalize().ok());
    match found {
        Some(server) => server.parent().map(Path::to_owned),
        None => newest(),
    }
}

fn newest() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?.flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<f64>().ok();
    let with_server = versions
        .filter_map(|version| Some((number(&version.path())?, version.path().join("bin"))))
        .filter(|(_, directory)| directory.join("postgres").is_file());
    with_server.max_by(|(left, _), (right, _)| left.total_cmp(right)).map(|(_, directory)| directory)
}

/// Runs a program to its end, and returns what it says.
///
/// # Errors
/// [`TimedOut`](ErrorKind::TimedOut), and the program is killed. That it fails is told by its status.
pub(super) async fn run(mut command: Command, input: &str, patience: Duration) -> Result<Output> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |error| Error::unavailable(format!("cannot run {name}")).caused_by(error);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let ended = async {
        if let Some(mut stdin) = stdin {
            // It may have ended before it read all of it; then its status tells.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    tokio::select! {
        biased;
        output = ended => output.map_err(failed),
        () = SystemClock::new().sleep(patience) => {
            Err(Error::new(ErrorKind::TimedOut, format!("no end of {name} within {patience:?}")))
        }
    }
}

/// The same for a program that has to succeed, and may take its time.
pub(super) async fn succeed(command: Command) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = run(command, "", PATIENCE).await?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::unavailable(format!("{name} failed: {complaint}")))
}
