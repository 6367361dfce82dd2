//! [`ZooKeeperConnector`]: from `zookeeper://host` to a backend.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Operation, Result, StoreUrl};

use crate::backend::ZooKeeperBackend;
use crate::dial::Dial;
use crate::failure::wrong;
use crate::options::{Access, ZooKeeperOptions};

const PORT: u16 = 2181;

/// Answers for `zookeeper://[user:password@]host[:2181],…[/root]`, and for `zookeepers` through TLS. Query keys: `tick` (the
/// servers' tickTime, 2s), `sasl` (log in by SASL instead of `digest`), `access` (`creator` or `world`); with TLS `ca_file`,
/// `cert_file`, `key_file`.
#[derive(Clone, Debug, Default)]
pub struct ZooKeeperConnector {
    options: ZooKeeperOptions,
}

impl ZooKeeperConnector {
    /// A connector with the usual options.
    pub fn new() -> ZooKeeperConnector {
        ZooKeeperConnector::default()
    }

    /// A connector whose URLs begin with these options.
    pub fn with_options(options: ZooKeeperOptions) -> ZooKeeperConnector {
        ZooKeeperConnector { options }
    }

    /// As [`connect`](Connector::connect), but connects at the first call.
    ///
    /// # Errors
    /// [`Misconfigured`](lock_core::ErrorKind::Misconfigured) for a URL that cannot be.
    pub fn open(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.backend(url).map_err(|error| error.during(Operation::Connect))?))
    }

    fn backend(&self, url: &mut StoreUrl) -> Result<ZooKeeperBackend> {
        let mut options = self.options.clone();
        let with_tls = url.scheme() == "zookeepers";
        if options.tls && !with_tls {
            return Err(wrong(
                "TLS is asked for, and the URL is one without: it has to begin with zookeepers",
            ));
        }
        options.tls = with_tls;
        options.files.take(url)?;
        let with_sasl = url.take_flag("sasl")?;
        match (url.user(), url.password()) {
            (Some(user), Some(password)) if with_sasl => options = options.sasl(user, password.clone()),
            (Some(user), Some(password)) => options = options.digest(user, password.clone()),
            (None, None) if with_sasl => {
                return Err(wrong("sasl=true is about an account, and the URL names none"));
            }
            (None, None) => {}
            _ => {
                return Err(wrong(
                    "a user and a password belong together: zookeeper://user:password@host, or ?password_file= with a user",
                ));
            }
        }
        match url.take("access").as_deref() {
            None => {}
            Some("creator") => options = options.access(Access::Creator),
            Some("world") => options = options.access(Access::World),
            Some(other) => return Err(wrong(format!("access is creator or world, and not {other:?}"))),
        }
        if let Some(tick) = url.take_duration("tick")? {
            options = options.tick(tick);
        }
        if url.hosts().is_empty() {
            return Err(wrong(
                "a zookeeper: URL names the servers, as in zookeeper://z1:2181,z2:2181,z3:2181",
            ));
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
        ZooKeeperBackend::new(Dial::new(endpoints.collect(), options)?)
    }
}

#[async_trait]
impl Connector for ZooKeeperConnector {
    fn schemes(&self) -> &[&'static str] {
        &["zookeeper", "zookeepers"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let backend = self.backend(url).map_err(|error| error.during(Operation::Connect))?;
        backend.connect().await?;
        Ok(Arc::new(backend))
    }
}
