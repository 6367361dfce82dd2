//! [`Dial`]: where servers are, and how a session with them is begun.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lock_core::{Clock, Effect, Error, ErrorKind, ExposeSecret, Result, SystemClock, within};
use lock_tls::{TlsFiles, ask, choose_provider, client_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use zookeeper_client::{
    Acls, Client, SaslOptions, TlsCa, TlsCerts, TlsDynamicCerts, TlsIdentity, TlsOptions,
};

use crate::failure::{NO_SERVER, failed, refused_by_tls, wrong};
use crate::options::{Access, ZooKeeperOptions};

/// More than anybody waits for, and little enough to be multiplied.
pub(crate) const AN_HOUR: Duration = Duration::from_secs(3_600);

/// For one server that is asked something beside the way.
const PATIENCE: Duration = Duration::from_secs(1);

/// So often a session is begun whose answer may be [misread](Dial::begin).
const ATTEMPTS: u32 = 3;

/// Where servers are, and how a session with them is begun.
pub(crate) struct Dial {
    /// `host:port`, one at least.
    endpoints: Vec<String>,
    options: ZooKeeperOptions,
}

impl Dial {
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) without an endpoint, or for what does not go together; files for TLS that
    /// cannot be used.
    pub(crate) fn new(endpoints: Vec<String>, options: ZooKeeperOptions) -> Result<Dial> {
        options.files.suit(options.tls, "zookeepers")?;
        if endpoints.is_empty() {
            return Err(wrong("there is no endpoint: name one server of ZooKeeper at least"));
        }
        // The driver would take what comes behind a slash for a part of every path.
        let has_port =
            |endpoint: &str| endpoint.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if endpoints
            .iter()
            .any(|endpoint| !has_port(endpoint) || endpoint.contains(['/', '?', '#', '@', ',']))
        {
            return Err(wrong(
                "an endpoint of ZooKeeper is a host and a port, as in z1:2181, with nothing before or behind them",
            ));
        }
        if options.tick.is_zero() || options.tick > AN_HOUR {
            return Err(wrong(
                "a tick of no time, or of more than an hour: it is the tickTime of the servers, two seconds unless they say otherwise",
            ));
        }
        if options.tls {
            for endpoint in &endpoints {
                // The driver would panic.
                ServerName::try_from(host(endpoint)).map_err(|error| {
                    wrong(format!("{endpoint} cannot be reached with TLS")).caused_by(error)
                })?;
            }
            // Whatever is wrong with the files is said now.
            certificates(&options.files)?;
        }
        Ok(Dial { endpoints, options })
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn options(&self) -> &ZooKeeperOptions {
        &self.options
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.options.tls { "zookeepers" } else { "zookeeper" }
    }

    /// Who may do what with a node that is created.
    pub(crate) fn acls(&self) -> Acls<'static> {
        match self.options.access_in_force() {
            Access::Creator => Acls::creator_all(),
            Access::World => Acls::anyone_all(),
        }
    }

    /// A client with a session of its own that is to live for so long, if the servers agree. It has been let in.
    ///
    /// The driver says nothing of why servers did not let it in: where none does, each is asked.
    pub(crate) async fn client(&self, ttl: Duration) -> Result<(Client, Option<TlsDynamicCerts>)> {
        let servers = self.endpoints.join(",");
        let (clock, limit) = (SystemClock::new(), self.options.connect_timeout);
        let since = clock.boot();
        let unsaid = match within(&clock, limit, self.begin(&servers, ttl)).await {
            Some(Err(error)) if *error.kind() == ErrorKind::Unavailable => error,
            Some(begun) => return begun,
            None => silent(limit),
        };
        let left = limit.saturating_sub(clock.boot().since(since)).max(PATIENCE);
        Err(within(&clock, left, self.reason(left)).await.flatten().unwrap_or(unsaid))
    }

    /// For how long one server grants a session that is to live for so long. `None` where it begins none in time.
    pub(crate) async fn granted_by(&self, endpoint: &str, ttl: Duration) -> Option<Duration> {
        let (client, _) = within(&SystemClock::new(), PATIENCE, self.begin(endpoint, ttl)).await?.ok()?;
        Some(client.session_timeout())
    }

    /// Servers that speak TLS may confirm an account before the session in which it is given, where they are quick with the session
    /// and slow with the connection: they read on as soon as the session is there, and its own answer is still to be written. The
    /// driver cannot read that, and goes on to the next server. So where there is no other one, it is sent again. What it leaves
    /// behind is a session without nodes.
    async fn begin(&self, servers: &str, ttl: Duration) -> Result<(Client, Option<TlsDynamicCerts>)> {
        let may_be_misread = self.options.tls && self.options.account.is_some();
        let mut attempts = if may_be_misread { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match self.attempt(servers, ttl).await {
                Err(error) if attempts > 0 && *error.kind() == ErrorKind::Unavailable => {}
                begun => return begun,
            }
        }
    }

    /// Goes to each server once, until one lets it in.
    async fn attempt(&self, servers: &str, ttl: Duration) -> Result<(Client, Option<TlsDynamicCerts>)> {
        // Servers grant no less, and the driver takes what is asked for as the time for the first connection.
        let ttl = ttl.max(self.options.tick * 2);
        let mut connector = Client::connector()
            .with_session_timeout(ttl)
            .with_connection_timeout(self.silence(servers, ttl))
            .with_fail_eagerly();
        if let Some(account) = &self.options.account {
            let password = account.password.expose_secret();
            connector = if account.with_sasl {
                connector.with_sasl(SaslOptions::digest_md5(account.user.clone(), password.to_owned()))
            } else {
                connector.with_auth("digest", format!("{}:{password}", account.user).as_bytes())
            };
        }
        let certificates = self.options.tls.then(|| certificates(&self.options.files)).transpose()?;
        let certificates = certificates.map(TlsDynamicCerts::new);
        let begun = match &certificates {
            Some(certificates) => {
                let options = TlsOptions::new().with_certs(certificates.clone());
                connector.with_tls(options).secure_connect(servers).await
            }
            None => connector.connect(servers).await,
        };
        let client = begun.map_err(|error| failed(error).effect(Effect::NotApplied))?;
        Ok((client, certificates))
    }

    /// After this time without a word the driver goes to another server, now and for as long as the session lives: so soon that the
    /// session has time for that. Where more than a minority says nothing there is no session anyway; so that is as many as have to be
    /// waited for before the one that answers.
    fn silence(&self, servers: &str, ttl: Duration) -> Duration {
        let servers = u32::try_from(servers.split(',').count()).unwrap_or(u32::MAX);
        (ttl / 4).min(self.options.connect_timeout / (servers.saturating_sub(1) / 2 + 1))
    }

    /// Reads the files for TLS again, for whatever connection is made next. Those that cannot be used change nothing: whoever begins
    /// a session is told.
    pub(crate) fn renew(&self, current: &TlsDynamicCerts) {
        // The machine's own are many, and seldom others.
        if self.options.files.is_empty() {
            return;
        }
        if let Ok(certificates) = certificates(&self.options.files) {
            current.update(certificates);
        }
    }

    /// Why no server lets anybody in, where one of them says so. TLS first: that does not pass.
    async fn reason(&self, left: Duration) -> Option<Error> {
        let clock = SystemClock::new();
        if self.options.tls {
            let servers = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX).max(1);
            // A handshake takes a server that has just been started a while.
            let patience = (left / servers).max(PATIENCE);
            for endpoint in &self.endpoints {
                let config = client_config(&self.options.files).ok()?;
                let asked = ask(endpoint, host(endpoint), config, b"srvr");
                let said = within(&clock, patience, asked).await.flatten();
                if let Some(refusal) = said.as_ref().and_then(refused_by_tls) {
                    return Some(refusal.at(endpoint.as_str()));
                }
            }
        }
        for endpoint in &self.endpoints {
            let connected = within(&clock, PATIENCE, TcpStream::connect(endpoint)).await;
            if let Some(Err(error)) = connected {
                let message = format!("{endpoint}: {error}; is it up, and can it be reached from here?");
                return Some(Error::unavailable(message).caused_by(error));
            }
        }
        None
    }
}

impl fmt::Debug for Dial {
    /// Without the account.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.endpoints.join(","))
    }
}

fn silent(limit: Duration) -> Error {
    Error::unavailable(format!("no session within {limit:?}; {NO_SERVER}"))
}

/// As the driver wants them. The files are read for each session, and again when its connection has ended.
fn certificates(files: &TlsFiles) -> Result<TlsCerts> {
    choose_provider();
    let files = files.read()?;
    let authority = match files.authority {
        Some(authority) => String::from_utf8_lossy(&authority.pem).into_owned(),
        None => machines_own(),
    };
    let authority = TlsCa::from_pem(&authority).map_err(|error| {
        wrong(
            "this machine has no certificates of its own that can be read: name the authority's as ca_file, or have SSL_CERT_FILE or \
             SSL_CERT_DIR name what is there",
        )
        .caused_by(error)
    })?;
    let mut certificates = TlsCerts::builder().with_ca(authority);
    if let Some(identity) = files.identity {
        let read = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
        let identity = TlsIdentity::from_pem(&read(&identity.certificate), &read(&identity.key))
            .map_err(|error| wrong("the client's certificate and key cannot be used").caused_by(error))?;
        certificates = certificates.with_identity(identity);
    }
    certificates.build().map_err(|error| wrong("the certificates cannot be used").caused_by(error))
}

/// In PEM, as the driver takes nothing else.
fn machines_own() -> String {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let pem = |certificate: &[u8]| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
    };
    certificates.iter().map(|certificate| pem(certificate)).collect()
}

/// Of `host:port`, or `[address]:port`.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
