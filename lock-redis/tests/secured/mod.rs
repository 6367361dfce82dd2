//! [`InRedis`]: the store, for what every store that speaks TLS is held to.

use std::sync::Arc;

use lock_conformance::servers::{Redis, RedisSetup, Tls};
use lock_conformance::tls::{CONNECT_TIMEOUT, PASSWORD, TlsStore};
use lock_core::{Backend, Connector, Result, StoreUrl, async_trait};
use lock_redis::{RedisConnector, RedisOptions};

pub(crate) struct InRedis;

#[async_trait]
impl TlsStore for InRedis {
    type Server = Redis;

    fn scheme(&self) -> &'static str {
        "redis"
    }

    fn login(&self) -> String {
        format!(":{PASSWORD}")
    }

    async fn start(&self, tls: Option<&Tls>, with_password: bool) -> Result<Redis> {
        let mut setup = RedisSetup::new().persistent();
        if let Some(tls) = tls {
            setup = setup.tls(tls);
        }
        if with_password {
            setup = setup.password(PASSWORD);
        }
        setup.start().await
    }

    fn address(&self, server: &Redis) -> String {
        server.address()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let options = RedisOptions::new().connect_timeout(CONNECT_TIMEOUT);
        RedisConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Backend>> {
        RedisConnector::new().open(&mut StoreUrl::parse(url)?)
    }
}
