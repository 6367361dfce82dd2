//! [`InZooKeeper`]: the store, for what every store that speaks TLS is held to.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Tls, ZooKeeper, ZooKeeperSetup};
use lock_conformance::tls::renewed::Restarting;
use lock_conformance::tls::{CONNECT_TIMEOUT, PASSWORD, TlsStore};
use lock_core::{Backend, Connector, Result, StoreUrl, async_trait};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

/// So short that a lease of a second is not below four of them.
const TICK: Duration = Duration::from_millis(200);

pub(crate) struct InZooKeeper;

#[async_trait]
impl TlsStore for InZooKeeper {
    type Server = ZooKeeper;

    fn scheme(&self) -> &'static str {
        "zookeeper"
    }

    fn login(&self) -> String {
        format!("locks:{PASSWORD}")
    }

    /// Servers know no such passwords: the scheme `digest` is between clients.
    async fn start(&self, tls: Option<&Tls>, _with_password: bool) -> Result<ZooKeeper> {
        let setup = ZooKeeperSetup::new().tick(TICK);
        match tls {
            Some(tls) => setup.tls(tls).start().await,
            None => setup.start().await,
        }
    }

    fn address(&self, server: &ZooKeeper) -> String {
        server.address()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        ZooKeeperConnector::with_options(options()).connect(&mut StoreUrl::parse(url)?).await
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Backend>> {
        ZooKeeperConnector::with_options(options()).open(&mut StoreUrl::parse(url)?)
    }
}

fn options() -> ZooKeeperOptions {
    ZooKeeperOptions::new().connect_timeout(CONNECT_TIMEOUT).tick(TICK)
}

#[async_trait]
impl Restarting for InZooKeeper {
    async fn kill(&self, server: &ZooKeeper) -> Result<()> {
        server.kill().await
    }

    async fn start_again(&self, server: &ZooKeeper) -> Result<()> {
        server.start_again().await
    }
}
