//! [`ZooKeeperSetup`]: how a [`ZooKeeper`] is to be started, and the configuration that comes of it.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use lock_core::{Error, Result};

use super::island::Island;
use super::ports::{free_port, on_free_ports};
use super::process::Program;
use super::tls::{ClientCertificates, Tls};
use super::zookeeper::ZooKeeper;

/// What Debian's packages have: the server, what it needs for TLS, and a logger that writes to the standard error.
const CLASSES: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// So short that a session may end within a test, and long enough for a busy machine.
const TICK: Duration = Duration::from_millis(500);

/// How a ZooKeeper server is to be started.
#[derive(Clone)]
pub struct ZooKeeperSetup {
    tick: Duration,
    in_earnest: bool,
    settings: Vec<(String, String)>,
    properties: Vec<(String, String)>,
    tls: Option<Tls>,
    users: Vec<(String, String)>,
    pub(super) island: Option<Island>,
    pub(super) place: Option<Place>,
}

/// A member's place in its ensemble.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) number: usize,
    /// What the configuration says of all members: `server.1=…`.
    pub(super) members: Vec<String>,
    /// How it reaches the others.
    pub(super) door: SocketAddr,
}

impl ZooKeeperSetup {
    /// One server without accounts. What it acknowledges survives a kill, though not the end of the machine: it does not wait for
    /// the disk.
    pub fn new() -> ZooKeeperSetup {
        ZooKeeperSetup {
            tick: TICK,
            in_earnest: false,
            settings: Vec::new(),
            properties: Vec::new(),
            tls: None,
            users: Vec::new(),
            island: None,
            place: None,
        }
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

    /// Has it wait for the disk, and have the memory and the compiler of a server in earnest: for what is measured.
    #[must_use]
    pub fn in_earnest(mut self) -> ZooKeeperSetup {
        self.in_earnest = true;
        self
    }

    /// A property of its virtual machine, for what its configuration does not have: `property("znode.container.checkIntervalMs",
    /// "100")`.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> ZooKeeperSetup {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Has it speak TLS with its clients at its port. Whatever a test asks of it goes to another one.
    #[must_use]
    pub fn tls(mut self, tls: &Tls) -> ZooKeeperSetup {
        self.tls = Some(tls.clone());
        self
    }

    /// An account for clients that log in by SASL with DIGEST-MD5. Those that do not are let in as anybody.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> ZooKeeperSetup {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Has it listen for clients on this island. Not for an ensemble, whose members would not reach each other.
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
        on_free_ports(async || {
            let server = ZooKeeper::prepared(self.clone(), free_port()?, None)?;
            server.launch().await?;
            Ok(server)
        })
        .await
    }

    pub(super) fn tick_time(&self) -> Duration {
        self.tick
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Writes the files by which it is started, into its directory.
    pub(super) fn configure(&self, server: &ZooKeeper) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = server.directory().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(server.directory()))
                .and_then(|()| std::fs::write(path, text))
                .map_err(|error| Error::unavailable(format!("cannot write {name}")).caused_by(error))
        };
        write("zoo.cfg", self.configuration(server))?;
        write("jaas.conf", self.accounts())?;
        if let Some(tls) = &self.tls {
            let read = |path: &std::path::Path| {
                std::fs::read_to_string(path)
                    .map_err(|error| Error::unavailable("cannot read a certificate").caused_by(error))
            };
            write("server.pem", read(tls.certificate.key())? + &read(tls.certificate.certificate())?)?;
        }
        match &self.place {
            Some(place) => write("data/myid", (place.number + 1).to_string()),
            None => Ok(()),
        }
    }

    fn configuration(&self, server: &ZooKeeper) -> String {
        let mut lines: Vec<String> = [
            format!("tickTime={}", self.tick.as_millis()),
            "dataDir=data".to_owned(),
            format!("clientPort={}", server.plain().port()),
            format!("clientPortAddress={}", server.plain().ip()),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            format!("forceSync={}", if self.in_earnest { "yes" } else { "no" }),
            "maxClientCnxns=0".to_owned(),
            "maxSessionTimeout=3600000".to_owned(),
        ]
        .into();
        if !self.users.is_empty() {
            lines.push(
                "authProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider".to_owned(),
            );
        }
        if let Some(tls) = &self.tls {
            let clients = match tls.clients {
                ClientCertificates::Unasked => "none",
                ClientCertificates::Optional => "want",
                ClientCertificates::Required => "need",
            };
            lines.extend([
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
                format!("secureClientPort={}", server.port()),
                format!("secureClientPortAddress={}", server.endpoint().ip()),
                "ssl.keyStore.location=server.pem".to_owned(),
                "ssl.keyStore.type=PEM".to_owned(),
                format!("ssl.trustStore.location={}", tls.authority.display()),
                "ssl.trustStore.type=PEM".to_owned(),
                format!("ssl.clientAuth={clients}"),
            ]);
        }
        if let Some(place) = &self.place {
            // Soon noticed, as all that is between them is this machine.
            lines.extend(["initLimit=20", "syncLimit=4", "quorumListenOnAllIPs=true"].map(str::to_owned));
            lines.extend(place.members.iter().cloned());
        }
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name}={value}")));
        lines.join("\n") + "\n"
    }

    fn accounts(&self) -> String {
        let users: Vec<_> =
            self.users.iter().map(|(name, password)| format!("    user_{name}=\"{password}\"\n")).collect();
        let login = "org.apache.zookeeper.server.auth.DigestLoginModule required";
        format!("Server {{\n    {login}\n{};\n}};\n", users.concat().trim_end())
    }

    pub(super) fn program_of(&self, server: &ZooKeeper) -> Program {
        let mut program =
            Program::new("java", server.directory()).package("default-jre-headless libzookeeper-java");
        program = match self.in_earnest {
            true => program.arguments(["-Xmx512m"]),
            // A small heap, and the compiler that is ready sooner: it serves a test.
            false => program.arguments(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]),
        };
        if !self.users.is_empty() {
            program = program.arguments(["-Djava.security.auth.login.config=jaas.conf"]);
        }
        if let Some(Place { door, .. }) = &self.place {
            program = program.arguments([
                format!("-DsocksProxyHost={}", door.ip()),
                format!("-DsocksProxyPort={}", door.port()),
                "-Dzookeeper.cnxTimeout=1000".to_owned(),
            ]);
        }
        program = program.arguments(self.properties.iter().map(|(name, value)| format!("-D{name}={value}")));
        program = program.arguments(["-cp", CLASSES, MAIN, "zoo.cfg"]);
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

impl fmt::Debug for ZooKeeperSetup {
    /// Without the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperSetup")
            .field("tick", &self.tick)
            .field("settings", &self.settings)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}
