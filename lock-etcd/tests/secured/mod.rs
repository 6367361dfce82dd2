//! [`InEtcd`]: the store, for what every store that speaks TLS is held to.

use std::sync::Arc;

use lock_conformance::servers::{Etcd, EtcdSetup, Tls};
use lock_conformance::tls::renewed::Restarting;
use lock_conformance::tls::{CONNECT_TIMEOUT, PASSWORD, TlsStore};
use lock_core::{Backend, Connector, Result, StoreUrl, async_trait};
use lock_etcd::{EtcdConnector, EtcdOptions};

pub(crate) struct InEtcd;

#[async_trait]
impl TlsStore for InEtcd {
    type Server = Etcd;

    fn scheme(&self) -> &'static str {
        "etcd"
    }

    fn login(&self) -> String {
        format!("root:{PASSWORD}")
    }

    async fn start(&self, tls: Option<&Tls>, with_password: bool) -> Result<Etcd> {
        let mut setup = EtcdSetup::new();
        if let Some(tls) = tls {
            setup = setup.tls(tls);
        }
        if with_password {
            setup = setup.password(PASSWORD);
        }
        setup.start().await
    }

    fn address(&self, server: &Etcd) -> String {
        server.address()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let options = EtcdOptions::new().connect_timeout(CONNECT_TIMEOUT);
        EtcdConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Backend>> {
        EtcdConnector::new().open(&mut StoreUrl::parse(url)?)
    }
}

#[async_trait]
impl Restarting for InEtcd {
    async fn kill(&self, server: &Etcd) -> Result<()> {
        server.kill().await
    }

    async fn start_again(&self, server: &Etcd) -> Result<()> {
        server.start_again().await
    }
}
