//! [`Postgres`]: one PostgreSQL server, alone, a primary or a replica.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Error, Result};
use tempfile::TempDir;
use tokio::process::Command;

use super::ending::Ending;
use super::island::Island;
use super::ports::Port;
use super::postgres_programs::{program, run, succeed};
use super::postgres_setup::PostgresSetup;
use super::postgres_template::{ADMIN, Template, directory};
use super::process::{Program, Server};
use super::unprivileged::Unprivileged;
use super::wall_clock::WallClock;

/// The database that every server has.
pub(super) const DATABASE: &str = "postgres";

/// How long its first statements may take.
const FIRST: Duration = Duration::from_secs(20);

/// A PostgreSQL server of a test's own. Ends when it is dropped.
///
/// It has one database, `postgres`, and one user, `admin`, who may do everything. What can be asked of it is in the second
/// half: [`run`](Postgres::run), which asks as that user, and what is made of it.
#[derive(Debug)]
pub struct Postgres {
    /// Dropped first: the directory, the port and what the setup keeps are the server's until it has ended.
    server: Mutex<Option<Arc<Server>>>,
    setup: PostgresSetup,
    directory: TempDir,
    data: PathBuf,
    port: Port,
    template: Origin,
}

/// Where its data came from.
struct Origin(&'static Template);

impl Postgres {
    /// A server that does not wait for the disk.
    pub async fn start() -> Result<Postgres> {
        PostgresSetup::new().start().await
    }

    /// Its address: `127.0.0.1:PORT`, unless it is on an island.
    pub fn address(&self) -> String {
        self.endpoint().to_string()
    }

    /// Its port, the same after another start.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its URL for the user who may do everything, with the password: `postgres://admin:PASSWORD@ADDRESS:PORT/postgres`.
    pub fn url(&self) -> String {
        self.url_of(ADMIN, self.password())
    }

    /// Its URL for this user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        url(&self.address(), user, password)
    }

    /// The name of the user who may do everything: `admin`.
    pub fn user_name(&self) -> &'static str {
        ADMIN
    }

    /// The password of the user who may do everything: the same for all servers of this process, and of no other.
    pub fn password(&self) -> &str {
        self.template.0.password()
    }

    /// Where its Unix socket is, which never speaks TLS: the `host` of a client that uses it.
    pub fn socket_directory(&self) -> &Path {
        self.directory()
    }

    /// Its directory: the log, the socket, and the data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its first process, and the parent of all others.
    ///
    /// # Errors
    /// It has been ended.
    pub fn server(&self) -> Result<Arc<Server>> {
        self.running().clone().ok_or_else(|| Error::unavailable("the server has been ended: start it again"))
    }

    /// Kills all of its processes as `kill -9` does, and waits until they are gone.
    pub async fn kill(&self) -> Result<()> {
        self.server()?.kill().await?;
        self.running().take();
        self.gives_back_memory().await
    }

    /// Ends it in an orderly way, without regard to its clients, and waits until it is gone. One that is stopped does not hear it.
    pub async fn shut_down(&self) -> Result<()> {
        self.server()?.terminate().await?;
        self.running().take();
        Ok(())
    }

    /// Starts it again after its end, at the same port, with what it has written.
    pub async fn start_again(&self) -> Result<()> {
        self.has_to_be_down()?;
        self.launch().await
    }

    /// Starts it again after its end, at the same port, as it was when it was new: without other accounts too.
    ///
    /// # Errors
    /// It is a replica, which has the data of its primary.
    pub async fn start_again_empty(&self) -> Result<()> {
        if self.setup.replica_of.is_some() {
            return Err(Error::invalid("a replica has the data of its primary: start another one"));
        }
        self.has_to_be_down()?;
        self.has_new_data().await?;
        self.launch().await
    }

    /// Stops all of its processes as `kill -STOP` does, and waits until they stand still: its connections stay open, and nobody
    /// answers.
    pub async fn stop(&self) -> Result<()> {
        self.server()?.comes_to_a_stand().await
    }

    /// Lets it go on.
    pub fn go_on(&self) -> Result<()> {
        self.server()?.go_on()
    }

    /// One that is to get its data and to be launched.
    pub(super) fn prepared(
        setup: PostgresSetup,
        template: &'static Template,
        port: Port,
    ) -> Result<Postgres> {
        let directory = directory(template.user(), "postgres-")?;
        let data = directory.path().join("data");
        Ok(Postgres { server: Mutex::new(None), setup, directory, data, port, template: Origin(template) })
    }

    /// Data of its own, or those of its primary.
    pub(super) async fn has_new_data(&self) -> Result<()> {
        self.has_no_data()?;
        match &self.setup.replica_of {
            None => {
                self.template.0.copy_to(&self.data).await?;
                self.runs_first(&self.setup.statements).await
            }
            Some(primary) => primary.copy_to(self).await,
        }
    }

    /// Runs statements while nobody can reach it.
    async fn runs_first(&self, statements: &[String]) -> Result<()> {
        if statements.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(program("postgres")?);
        command.args(["--single", "-D"]).arg(&self.data).arg(DATABASE).current_dir(self.directory());
        self.user().runs(&mut command);
        let input: String = statements.iter().map(|statement| format!("{statement}\n")).collect();
        let output = run(command, &input, FIRST).await?;
        // It says what is wrong with one, and goes on.
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || complaint.contains("ERROR") {
            return Err(Error::invalid(format!("PostgreSQL does not begin with that: {}", complaint.trim())));
        }
        Ok(())
    }

    fn has_no_data(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::unavailable("cannot remove the data").caused_by(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns once it answers: a replica too, which takes no writes.
    pub(super) async fn launch(&self) -> Result<()> {
        self.setup.configure(self)?;
        let mut program = Program::new(program("postgres")?.to_string_lossy(), self.directory())
            .package("postgresql")
            .arguments(["-D".into(), self.data.to_string_lossy()])
            .user(self.user())
            .ending(Ending::Postgres)
            .environment(self.setup.wall_clock.iter().flat_map(WallClock::environment))
            .environment(self.setup.environment.iter().map(|(key, value)| (key, value)));
        if let Some(island) = &self.setup.island {
            program = program.on(island);
        }
        let socket = self.directory().join(format!(".s.PGSQL.{}", self.port()));
        let ready = async || match socket.exists() {
            true => self.run("SELECT 1").await.map(|_| true),
            false => Ok(false),
        };
        let server = program.start(ready).await?;
        *self.running() = Some(Arc::new(server));
        Ok(())
    }

    pub(super) fn setup(&self) -> &PostgresSetup {
        &self.setup
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn user(&self) -> Unprivileged {
        self.template.0.user()
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        let island = self.setup.island.as_ref();
        (island.map_or(Ipv4Addr::LOCALHOST.into(), Island::address), self.port()).into()
    }

    /// What the kernel keeps for a server that was killed: its next start would free it, but there may be none.
    async fn gives_back_memory(&self) -> Result<()> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        // The key and the number, as the seventh line.
        let number = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        let Some(number) = number else { return Ok(()) };
        let mut command = Command::new("ipcrm");
        command.args(["-m", number]);
        succeed(command).await
    }

    /// One that crashed by itself is down, too.
    fn has_to_be_down(&self) -> Result<()> {
        match &*self.running() {
            Some(server) if !server.has_ended()? => {
                Err(Error::invalid("the server still runs: end it first"))
            }
            _ => Ok(()),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Origin {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template")
    }
}

/// A URL of the database at an address, or at several of them.
pub(super) fn url(addresses: &str, user: &str, password: &str) -> String {
    format!("postgres://{}:{}@{addresses}/{DATABASE}", escaped(user), escaped(password))
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
