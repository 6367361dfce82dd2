//! [`ZooKeeperSetup`]: how a [`ZooKeeper`] is to be started, and the configuration that comes of it.

use std::time::Duration;

use lock_core::Result;

use super::island::Island;
use super::ports::free_port;
use super::process::Program;
use super::zookeeper::ZooKeeper;

/// What Debian's package has: the server with all that it needs, and a logger that writes to the standard error.
const CLASSES: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// So short that a session may end within a test, and long enough for a busy machine.
const TICK: Duration = Duration::from_millis(500);

/// How often a start is tried where somebody else's server was faster at a port.
const ATTEMPTS: usize = 4;

/// How a ZooKeeper server is to be started.
#[derive(Clone, Debug)]
pub struct ZooKeeperSetup {
    tick: Duration,
    settings: Vec<(String, String)>,
    pub(super) island: Option<Island>,
}

impl ZooKeeperSetup {
    /// One server without accounts. What it acknowledges survives a kill, though not the end of the machine: it does not wait for
    /// the disk.
    pub fn new() -> ZooKeeperSetup {
        ZooKeeperSetup { tick: TICK, settings: Vec::new(), island: None }
    }

    /// In what steps it looks who is still there: half a second if this is not called. The shortest session is two of them.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> ZooKeeperSetup {
        self.tick = tick;
        self
    }

    /// A line of its configuration: `setting("maxClientCnxns", "1")`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> ZooKeeperSetup {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Has it listen for clients on this island.
    #[must_use]
    pub fn on(mut self, island: &Island) -> ZooKeeperSetup {
        self.island = Some(island.clone());
        self
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Errors
    /// There is no Java or no ZooKeeper, or it does not start; the message has its last words.
    pub async fn start(self) -> Result<ZooKeeper> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let server = ZooKeeper::prepared(self.clone(), free_port()?)?;
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(error) if attempts > 0 && error.message().contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The file `zoo.cfg`, relative to the server's directory.
    pub(super) fn configuration(&self, server: &ZooKeeper) -> String {
        let tick = self.tick.as_millis();
        let mut lines = vec![
            format!("tickTime={tick}"),
            "dataDir=data".to_owned(),
            format!("clientPort={}", server.port()),
            format!("clientPortAddress={}", server.endpoint().ip()),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            "forceSync=no".to_owned(),
            "maxClientCnxns=0".to_owned(),
            "maxSessionTimeout=3600000".to_owned(),
            "extendedTypesEnabled=true".to_owned(),
        ];
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name}={value}")));
        lines.join("\n") + "\n"
    }

    pub(super) fn program_of(&self, server: &ZooKeeper) -> Program {
        // A small heap, and the compiler that is ready sooner: it serves a test.
        let program = Program::new("java", server.directory()).package("zookeeper").arguments([
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            CLASSES,
            MAIN,
            "zoo.cfg",
        ]);
        match &self.island {
            Some(island) => program.on(island),
            None => program,
        }
    }
}

impl Default for ZooKeeperSetup {
    fn default() -> ZooKeeperSetup {
        ZooKeeperSetup::new()
    }
}
