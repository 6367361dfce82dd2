//! [`EtcdSetup`]: how an [`Etcd`] is to be started, and the command line that comes of it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lock_core::{Error, ErrorKind, Result};

use super::etcd::Etcd;
use super::island::Island;
use super::ports::{free_port, on_free_ports};
use super::process::Program;
use super::tls::{ClientCertificates, Tls};

/// How often a leader says that it is there: so many times in an election timeout.
const HEARTBEATS: u32 = 10;

const MEMBER_ELECTS_AFTER: Duration = Duration::from_millis(500);
const LONER_ELECTS_AFTER: Duration = Duration::from_millis(100);

/// How an etcd server is to be started.
#[derive(Clone)]
pub struct EtcdSetup {
    program: String,
    pub(super) password: Option<String>,
    pub(super) quota: Option<u64>,
    election_timeout: Option<Duration>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Kept: a server that is started again needs its files.
    pub(super) island: Option<Island>,
    pub(super) tls: Option<Tls>,
    pub(super) place: Option<Place>,
}

/// A member's place in its cluster.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// Where the others reach it.
    pub(super) advertised: String,
    /// How it reaches the others.
    pub(super) network: String,
    /// All members, as etcd lists them.
    pub(super) members: String,
    /// No other cluster has it.
    pub(super) token: String,
}

impl EtcdSetup {
    /// One server without accounts. What it acknowledges survives a kill, though not the end of the machine: it does not wait
    /// for the disk.
    pub fn new() -> EtcdSetup {
        EtcdSetup {
            program: "etcd".to_owned(),
            password: None,
            quota: None,
            election_timeout: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            island: None,
            tls: None,
            place: None,
        }
    }

    /// Clients have to give a name and a password. This one is of `root`, who may do everything; others get an
    /// [account](Etcd::account).
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> EtcdSetup {
        self.password = Some(password.into());
        self
    }

    /// How large its database may grow, in bytes, until it takes no more writes: `NOSPACE`.
    #[must_use]
    pub fn quota(mut self, bytes: u64) -> EtcdSetup {
        self.quota = Some(bytes);
        self
    }

    /// After how long without a leader the others elect one, or up to twice as long: half a second if this is not called, which
    /// a busy machine does not exceed. One that is alone elects itself after a tenth. It sets the shortest TTL of a lease
    /// too: [`minimum_ttl`](Etcd::minimum_ttl).
    #[must_use]
    pub fn election_timeout(mut self, timeout: Duration) -> EtcdSetup {
        self.election_timeout = Some(timeout);
        self
    }

    /// Adds arguments to its command line: `["--max-txn-ops", "16"]`. Everybody on the machine can read them.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> EtcdSetup {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, key: impl Into<String>, value: impl Into<String>) -> EtcdSetup {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Has it listen for clients on this island. Its Unix socket is not cut with it. Not for a cluster, whose members would
    /// not reach each other.
    #[must_use]
    pub fn on(mut self, island: &Island) -> EtcdSetup {
        self.island = Some(island.clone());
        self
    }

    /// Has it speak TLS with its clients. A client certificate is [required](ClientCertificates::Required) or
    /// [not asked for](ClientCertificates::Unasked): etcd knows nothing in between. Members of a cluster speak plainly with
    /// each other.
    #[must_use]
    pub fn tls(mut self, tls: &Tls) -> EtcdSetup {
        self.tls = Some(tls.clone());
        self
    }

    /// Another program than `etcd` that takes the same arguments.
    #[must_use]
    pub fn program(mut self, program: impl Into<String>) -> EtcdSetup {
        self.program = program.into();
        self
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Errors
    /// There is no such program, or it does not start; the message has its last words.
    pub async fn start(self) -> Result<Etcd> {
        on_free_ports(async || {
            let etcd = Etcd::prepared(self.clone(), free_port()?, free_port()?)?;
            etcd.launch().await?;
            etcd.secure().await?;
            Ok(etcd)
        })
        .await
    }

    /// As etcd reckons it: one and a half election timeouts, in heartbeats, in whole seconds.
    pub(super) fn minimum_ttl(&self) -> Duration {
        let heartbeat = self.heartbeat();
        let ticks = self.elects_after().as_millis() / heartbeat.as_millis();
        let millis = 3 * ticks / 2 * heartbeat.as_millis();
        Duration::from_secs(u64::try_from(millis.div_ceil(1000)).unwrap_or(u64::MAX))
    }

    pub(super) fn program_of(&self, etcd: &Etcd) -> Result<Program> {
        let peers = format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, etcd.peer_port())));
        let alone = Place {
            name: "alone".to_owned(),
            advertised: peers.clone(),
            network: String::new(),
            members: format!("alone={peers}"),
            token: "alone".to_owned(),
        };
        let place = self.place.as_ref().unwrap_or(&alone);
        let mut arguments = vec![
            format!("--name={}", place.name),
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls={},unix://{}", etcd.url(), Etcd::SOCKET),
            format!("--advertise-client-urls={}", etcd.url()),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={}", place.advertised),
            format!("--initial-cluster={}", place.members),
            format!("--initial-cluster-token={}", place.token),
            format!("--heartbeat-interval={}", self.heartbeat().as_millis()),
            format!("--election-timeout={}", self.elects_after().as_millis()),
            "--unsafe-no-fsync".to_owned(),
            // The least that there is: a test asks with its password again and again.
            "--bcrypt-cost=4".to_owned(),
        ];
        arguments.extend(self.quota.map(|bytes| format!("--quota-backend-bytes={bytes}")));
        if let Some(tls) = &self.tls {
            arguments.push(format!("--cert-file={}", tls.certificate.certificate().display()));
            arguments.push(format!("--key-file={}", tls.certificate.key().display()));
            match tls.clients {
                ClientCertificates::Unasked => {}
                ClientCertificates::Required => {
                    arguments.push("--client-cert-auth".to_owned());
                    arguments.push(format!("--trusted-ca-file={}", tls.authority.display()));
                }
                ClientCertificates::Optional => {
                    let message = "etcd asks for a client certificate or does not: it has no optional ones";
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
            }
        }
        let mut program = Program::new(&self.program, etcd.directory())
            .package("etcd-server")
            .arguments(arguments)
            .arguments(&self.arguments)
            // Whatever the test's own are: these lead to the other members, or nowhere.
            .environment([("HTTP_PROXY", place.network.as_str()), ("NO_PROXY", ""), ("no_proxy", "")])
            .environment(self.environment.iter().map(|(key, value)| (key, value)));
        if let Some(island) = &self.island {
            program = program.on(island);
        }
        Ok(program)
    }

    fn heartbeat(&self) -> Duration {
        (self.elects_after() / HEARTBEATS).max(Duration::from_millis(1))
    }

    /// Alone, it takes itself for lost never, however long the machine is busy with other things.
    fn elects_after(&self) -> Duration {
        let default = if self.place.is_some() { MEMBER_ELECTS_AFTER } else { LONER_ELECTS_AFTER };
        self.election_timeout.unwrap_or(default)
    }
}

impl Default for EtcdSetup {
    fn default() -> EtcdSetup {
        EtcdSetup::new()
    }
}

impl fmt::Debug for EtcdSetup {
    /// Without the password, and without the environment, where another one may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSetup")
            .field("program", &self.program)
            .field("quota", &self.quota)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}
