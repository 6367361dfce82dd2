//! [`EtcdConnector`]: from `etcd://host` to a backend.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Error, ErrorKind, Operation, Result, StoreUrl};

use crate::backend::EtcdBackend;
use crate::dial::Dial;
use crate::options::EtcdOptions;

const PORT: u16 = 2379;

/// Answers for `etcd://[user[:password]@]host[:2379],…[/root]`, and for `etcds` through TLS. Query keys with TLS: `ca_file`,
/// `cert_file`, `key_file`.
#[derive(Clone, Debug, Default)]
pub struct EtcdConnector {
    options: EtcdOptions,
}

impl EtcdConnector {
    /// A connector with the usual options.
    pub fn new() -> EtcdConnector {
        EtcdConnector::default()
    }

    /// A connector whose URLs begin with these options.
    pub fn with_options(options: EtcdOptions) -> EtcdConnector {
        EtcdConnector { options }
    }

    /// As [`connect`](Connector::connect), but connects at the first call.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a URL that cannot be.
    pub fn open(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.backend(url).map_err(|error| error.during(Operation::Connect))?))
    }

    fn backend(&self, url: &mut StoreUrl) -> Result<EtcdBackend> {
        let mut options = self.options.clone();
        let with_tls = url.scheme() == "etcds";
        if with_tls {
            options = options.tls();
        }
        options.files.take(url)?;
        if options.is_with_tls() && !with_tls {
            options.files.suit(with_tls, "etcds")?;
            return Err(wrong("TLS is asked for, and the URL is one without: it has to begin with etcds"));
        }
        match (url.user(), url.password()) {
            (Some(user), Some(password)) => options = options.user(user, password.clone()),
            (None, None) => {}
            _ => {
                return Err(wrong(
                    "a user and a password belong together: etcd://user:password@host, or ?password_file= with a user",
                ));
            }
        }
        if url.hosts().is_empty() {
            return Err(wrong("an etcd: URL names the servers, as in etcd://e1:2379,e2:2379,e3:2379"));
        }
        let root = url.path().trim_matches('/').to_owned();
        if !root.is_empty() {
            options = options.root(root);
        }
        url.finish()?;
        let endpoints = url.hosts().iter().map(|host| {
            let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
            format!("{name}:{}", host.port.unwrap_or(PORT))
        });
        let root = options.root.clone();
        EtcdBackend::new(Dial::new(endpoints.collect(), with_tls, options)?, &root)
    }
}

#[async_trait]
impl Connector for EtcdConnector {
    fn schemes(&self) -> &[&'static str] {
        &["etcd", "etcds"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let backend = self.backend(url).map_err(|error| error.during(Operation::Connect))?;
        backend.connect().await?;
        Ok(Arc::new(backend))
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
