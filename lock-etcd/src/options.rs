//! [`EtcdOptions`]: how a store in etcd is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lock_core::Secret;
use lock_tls::TlsFiles;

/// As often as servers allow, also while nothing is under way: a connection behind which nobody is any more breaks then.
pub(crate) const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

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
    pub(crate) user: Option<(String, Secret)>,
    pub(crate) files: TlsFiles,
    tls: bool,
}

impl EtcdOptions {
    /// Root `fencepost`, five seconds to connect, no user, no TLS.
    pub fn new() -> EtcdOptions {
        EtcdOptions {
            root: "fencepost".to_owned(),
            connect_timeout: Duration::from_secs(5),
            user: None,
            files: TlsFiles::default(),
            tls: false,
        }
    }

    /// What every key begins with: 1 to 200 ASCII letters, digits or any of `- _ . / :`, without a slash at its end. Whoever is
    /// to share locks uses the same one.
    #[must_use]
    pub fn root(mut self, root: impl Into<String>) -> EtcdOptions {
        self.root = root.into();
        self
    }

    /// How long one attempt to connect may take. Of several endpoints, each has its share of it.
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
        self.tls = true;
        self
    }

    /// With TLS: a file of certificates (PEM) that servers are to be vouched for by, in place of the machine's own. As with
    /// [`certificate`](EtcdOptions::certificate), it is read whenever a line to a server is made anew, so that it may be
    /// renewed.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> EtcdOptions {
        self.files.authority = Some(path.into());
        self
    }

    /// With TLS: the files (PEM) of the client's certificate, with those that vouch for it, and of its private key.
    #[must_use]
    pub fn certificate(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> EtcdOptions {
        self.files.identity = Some((cert_file.into(), key_file.into()));
        self
    }

    /// Whether these alone ask for TLS.
    pub(crate) fn is_with_tls(&self) -> bool {
        self.tls || !self.files.is_empty()
    }
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
            .field("files", &self.files)
            .finish()
    }
}
