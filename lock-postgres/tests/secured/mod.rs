//! [`InPostgres`]: the store, for what every store that speaks TLS is held to.

#![allow(dead_code, reason = "each test target uses a part of it")]

use std::sync::Arc;

use lock_conformance::servers::{Postgres, PostgresSetup, Tls};
use lock_conformance::tls::{CONNECT_TIMEOUT, PASSWORD, TlsStore};
use lock_core::{Backend, Connector, Result, StoreUrl, async_trait};
use lock_postgres::{PostgresConnector, PostgresOptions};

/// Who may do everything, beside the administrator: Postgres lets nobody in without a password.
const USER: &str = "locks";

pub(crate) struct InPostgres;

#[async_trait]
impl TlsStore for InPostgres {
    type Server = Postgres;

    fn scheme(&self) -> &'static str {
        "postgres"
    }

    fn login(&self) -> String {
        format!("{USER}:{PASSWORD}")
    }

    async fn start(&self, tls: Option<&Tls>, _: bool) -> Result<Postgres> {
        let mut setup = PostgresSetup::new();
        if let Some(tls) = tls {
            setup = setup.tls(tls);
        }
        started(setup).await
    }

    fn address(&self, server: &Postgres) -> String {
        server.address()
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let options = PostgresOptions::new().connect_timeout(CONNECT_TIMEOUT);
        PostgresConnector::with_options(options).connect(&mut StoreUrl::parse(&as_postgres_says(url))?).await
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Backend>> {
        PostgresConnector::new().open(&mut StoreUrl::parse(&as_postgres_says(url))?)
    }
}

pub(crate) async fn started(setup: PostgresSetup) -> Result<Postgres> {
    setup.statement(format!("CREATE ROLE {USER} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")).start().await
}

/// `postgress://HOST?ca_file=…`, which is how others say it, in the words of Postgres: it has one scheme, and a mode in the query.
pub(crate) fn as_postgres_says(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let login = if place.contains('@') { String::new() } else { format!("{USER}:{PASSWORD}@") };
    let database = if place.contains('/') { "" } else { "/postgres" };
    let mode = if scheme.ends_with('s') && scheme != "postgres" { "verify-full" } else { "disable" };
    let files: String = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = match key {
                "ca_file" => "sslrootcert",
                "cert_file" => "sslcert",
                "key_file" => "sslkey",
                other => other,
            };
            format!("&{key}={value}")
        })
        .collect();
    format!("postgres://{login}{place}{database}?sslmode={mode}{files}")
}
