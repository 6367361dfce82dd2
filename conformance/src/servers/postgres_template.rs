//! [`Template`]: the data of a new PostgreSQL server. It is made once in a process, which takes a second, and then copied.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Blocking, Stdio};

use std::os::unix::process::CommandExt;

use lock_core::{Error, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::account::secret;
use super::postgres_programs::{program, succeed};
use super::unprivileged::Unprivileged;

/// Who may do everything.
pub(super) const ADMIN: &str = "admin";

/// What a new server has in its data directory: one database, and one user.
pub(super) struct Template {
    directory: PathBuf,
    password: String,
    user: Unprivileged,
    /// Removes the directory once this process has ended: nothing that is static is ever dropped.
    _remover: Child,
}

impl Template {
    /// This process's.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not make it.
    pub(super) async fn of_this_process() -> Result<&'static Template> {
        static TEMPLATE: OnceCell<Template> = OnceCell::const_new();
        TEMPLATE.get_or_try_init(Template::new).await
    }

    async fn new() -> Result<Template> {
        let initdb = program("initdb")?;
        let user = Unprivileged::found()?;
        let directory = directory(user, "postgres-template-")?;
        let password = secret();
        let file = directory.path().join("password");
        write(user, &file, password.as_bytes())?;
        let mut command = Command::new(initdb);
        command
            .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"])
            .args(["--auth=scram-sha-256", &format!("--username={ADMIN}")])
            // The least that there is: every server writes one at once.
            .arg("--wal-segsize=1")
            .arg(argument("--pwfile=", &file))
            .arg(argument("--pgdata=", &directory.path().join("data")))
            .current_dir(directory.path());
        user.runs(&mut command);
        succeed(command).await?;
        let remover = remover(directory.path())?;
        Ok(Template { directory: directory.keep(), password, user, _remover: remover })
    }

    /// The password of [`ADMIN`].
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Whom a server runs as.
    pub(super) fn user(&self) -> Unprivileged {
        self.user
    }

    /// Makes a directory that is to have the data of a new server.
    pub(super) async fn copy_to(&self, data: &Path) -> Result<()> {
        let mut command = Command::new("cp");
        // A file system that can does it without writing anything twice.
        command.args(["--archive", "--reflink=auto"]).arg(self.directory.join("data")).arg(data);
        self.user.runs(&mut command);
        succeed(command).await
    }
}

/// A directory of this user, and nobody else's.
pub(super) fn directory(user: Unprivileged, prefix: &str) -> Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .map_err(|error| Error::unavailable("no directory for a server").caused_by(error))?;
    user.owns(directory.path())?;
    Ok(directory)
}

/// Writes a file that only this user reads: everybody can read a command line.
pub(super) fn write(user: Unprivileged, file: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(content))
        .map_err(|error| Error::unavailable(format!("cannot write {}", file.display())).caused_by(error))?;
    user.owns(file)
}

fn argument(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(name);
    argument.push(path);
    argument
}

/// Its standard input ends with this process, however that ends.
fn remover(directory: &Path) -> Result<Child> {
    Blocking::new("/bin/sh")
        .args(["-c", r#"trap '' HUP; read -r line; rm -rf "$1""#, "remover"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // The keyboard's interrupt is for the test.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::unavailable("cannot start /bin/sh").caused_by(error))
}
