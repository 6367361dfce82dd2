//! [`RedisOptions`]: how a store in Redis is used.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Result, Secret};
use lock_tls::TlsFiles;

const LONGEST_IDLE: Duration = Duration::from_secs(366 * 24 * 3600);

type Asking = Pin<Box<dyn Future<Output = Result<Credentials>> + Send>>;
type AddressMap = dyn Fn(&str, u16) -> (String, u16) + Send + Sync;

/// How a store in Redis is used.
///
/// ```
/// use std::time::Duration;
/// use lock_redis::RedisOptions;
///
/// let options = RedisOptions::new().namespace("billing").idle_after(Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    pub(crate) namespace: String,
    pub(crate) idle_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) credentials: Option<Arc<dyn Fn() -> Asking + Send + Sync>>,
    pub(crate) sentinel_credentials: Option<Credentials>,
    pub(crate) client_name: Option<String>,
    pub(crate) tls: TlsFiles,
    pub(crate) address_map: Option<Arc<AddressMap>>,
}

/// A user and a password, as a callback gives them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Credentials {
    /// The ACL user; `None` for the default one.
    pub user: Option<String>,
    /// The password, or a token that stands for one.
    pub password: Secret,
}

impl Credentials {
    /// A user's password; without a user that of the default one.
    pub fn new(user: Option<String>, password: Secret) -> Credentials {
        Credentials { user, password }
    }
}

impl RedisOptions {
    /// Namespace `fencepost`, idle keys kept for five minutes, five seconds to connect.
    pub fn new() -> RedisOptions {
        RedisOptions {
            namespace: "fencepost".to_owned(),
            idle_after: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            credentials: None,
            sentinel_credentials: None,
            client_name: None,
            tls: TlsFiles::default(),
            address_map: None,
        }
    }

    /// What every key and channel begins with: 1 to 64 ASCII letters, digits or any of `- _ . / :`. Whoever is to share locks
    /// uses the same one.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> RedisOptions {
        self.namespace = namespace.into();
        self
    }

    /// For how long the record of an idle key stays beyond ten TTLs: from a millisecond to a year (what lies outside counts as
    /// the nearest), five minutes unless set.
    ///
    /// For that long, too, claims of a key need not look at the server's clock.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> RedisOptions {
        self.idle_after = time.clamp(Duration::from_millis(1), LONGEST_IDLE);
        self
    }

    /// How long one attempt to connect may take.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> RedisOptions {
        self.connect_timeout = limit;
        self
    }

    /// Asks for user and password at every connection, also when one was lost: for passwords that rotate and tokens that expire.
    /// What the URL or the `redis::Client` says about them counts no more.
    ///
    /// ```
    /// use lock_core::Secret;
    /// use lock_redis::{Credentials, RedisOptions};
    ///
    /// let options = RedisOptions::new().credentials(|| async {
    ///     let token = Secret::from("from a vault");
    ///     Ok(Credentials::new(Some("locks".into()), token))
    /// });
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn credentials<F>(mut self, ask: impl Fn() -> F + Send + Sync + 'static) -> RedisOptions
    where
        F: Future<Output = Result<Credentials>> + Send + 'static,
    {
        self.credentials = Some(Arc::new(move || Box::pin(ask())));
        self
    }

    /// User and password for the sentinels, which have accounts of their own. None unless set, whatever the store's are.
    #[must_use]
    pub fn sentinel_credentials(mut self, credentials: Credentials) -> RedisOptions {
        self.sentinel_credentials = Some(credentials);
        self
    }

    /// What `CLIENT LIST` calls the connections; the account then needs `+client|setname`. Without blanks and line ends.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> RedisOptions {
        self.client_name = Some(name.into());
        self
    }

    /// With TLS: a file of certificates (PEM) that servers are to be vouched for by, in place of the machine's own. As with
    /// [`certificate`](RedisOptions::certificate), it is read at each connection, so that it may be renewed.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> RedisOptions {
        self.tls.authority = Some(path.into());
        self
    }

    /// With TLS: the files (PEM) of the client's certificate, with those that vouch for it, and of its private key.
    #[must_use]
    pub fn certificate(
        mut self,
        cert_file: impl Into<PathBuf>,
        key_file: impl Into<PathBuf>,
    ) -> RedisOptions {
        self.tls.identity = Some((cert_file.into(), key_file.into()));
        self
    }

    /// How an address is reached from here at which servers name each other, where that differs from what they say: behind a
    /// translation of addresses, say. Asked for what sentinels and the nodes of a cluster answer, not for what a URL names.
    ///
    /// ```
    /// use lock_redis::RedisOptions;
    ///
    /// let tunnel = RedisOptions::new().address_map(|_host, port| ("localhost".into(), port + 10_000));
    /// # let _ = tunnel;
    /// ```
    #[must_use]
    pub fn address_map(
        mut self,
        map: impl Fn(&str, u16) -> (String, u16) + Send + Sync + 'static,
    ) -> RedisOptions {
        self.address_map = Some(Arc::new(map));
        self
    }
}

impl Default for RedisOptions {
    fn default() -> RedisOptions {
        RedisOptions::new()
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("namespace", &self.namespace)
            .field("idle_after", &self.idle_after)
            .field("connect_timeout", &self.connect_timeout)
            .field("credentials", &self.credentials.as_ref().map(|_| "a callback"))
            .field("sentinel_credentials", &self.sentinel_credentials)
            .field("client_name", &self.client_name)
            .field("tls", &self.tls)
            .field("address_map", &self.address_map.as_ref().map(|_| "a callback"))
            .finish()
    }
}
