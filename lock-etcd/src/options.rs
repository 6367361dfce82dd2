//! [`EtcdOptions`]: how a store in etcd is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use lock_core::{Error, ErrorKind, ExposeSecret, Result, Secret};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// As often as servers allow, also while nothing is under way: a connection behind which nobody is any more breaks then.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// How a store in etcd is used.
///
/// ```
/// use lock_etcd::EtcdOptions;
///
/// let options = EtcdOptions::new().root("billing/locks");
/// # let _ = options;
/// ```
#[derive(Clone)]
pub struct EtcdOptions {
    pub(crate) root: String,
    pub(crate) connect_timeout: Duration,
    user: Option<(String, Secret)>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Default)]
struct Tls {
    authority: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdOptions {
    /// Root `fencepost`, five seconds to connect, no user, no TLS.
    pub fn new() -> EtcdOptions {
        EtcdOptions {
            root: "fencepost".to_owned(),
            connect_timeout: Duration::from_secs(5),
            user: None,
            tls: None,
        }
    }

    /// What every key begins with: 1 to 200 ASCII letters, digits or any of `- _ . / :`, without a slash at its end. Whoever is
    /// to share locks uses the same one.
    #[must_use]
    pub fn root(mut self, root: impl Into<String>) -> EtcdOptions {
        self.root = root.into();
        self
    }

    /// How long one attempt to connect may take.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> EtcdOptions {
        self.connect_timeout = limit;
        self
    }

    /// The user, and the password. The token that the server gives for it is asked for again when it has expired.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: Secret) -> EtcdOptions {
        self.user = Some((name.into(), password));
        self
    }

    /// Through TLS. Servers are vouched for by the machine's own authorities unless there is a [`ca_file`](EtcdOptions::ca_file).
    #[must_use]
    pub fn tls(mut self) -> EtcdOptions {
        self.tls.get_or_insert_with(Tls::default);
        self
    }

    /// Through TLS, with the authorities of this file (PEM) alone.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> EtcdOptions {
        self.tls.get_or_insert_with(Tls::default).authority = Some(path.into());
        self
    }

    /// Through TLS, with the client's certificate, and the private key for it (PEM).
    #[must_use]
    pub fn certificate(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> EtcdOptions {
        self.tls.get_or_insert_with(Tls::default).identity = Some((cert_file.into(), key_file.into()));
        self
    }

    pub(crate) fn is_with_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// As the driver wants them. Files are read here, once.
    pub(crate) fn of_the_driver(&self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password.expose_secret()).with_auto_token_refresh(true);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options()?);
        }
        Ok(options)
    }
}

impl Tls {
    fn options(&self) -> Result<TlsOptions> {
        // With two providers compiled in, or none, rustls panics; what the application has chosen stays.
        if CryptoProvider::get_default().is_none() {
            let _ = aws_lc_rs::default_provider().install_default();
        }
        let mut options = match &self.authority {
            Some(path) => TlsOptions::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(options)
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::new(
            ErrorKind::Misconfigured,
            format!("the file {} for TLS cannot be read: {error}", path.display()),
        )
        .caused_by(error)
    })
}

impl Default for EtcdOptions {
    fn default() -> EtcdOptions {
        EtcdOptions::new()
    }
}

impl fmt::Debug for EtcdOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("root", &self.root)
            .field("connect_timeout", &self.connect_timeout)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .finish()
    }
}
