//! [`PostgresConnector`]: from `postgres://host/database` to a backend.

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Error, ErrorKind, ExposeSecret, Operation, Result, StoreUrl};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::PgConnectOptions;

use crate::backend::PostgresBackend;
use crate::dial::Dial;
use crate::options::PostgresOptions;

/// Query keys that are the driver's own.
const DRIVERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];

/// Answers for `postgres://[user[:password]@]host[:5432][,…]/database` and `postgresql://…`, as the driver and libpq write them: a
/// `DATABASE_URL` does. What it leaves out is taken from the variables `PGHOST`, `PGUSER` and the like, and from `.pgpass`. Of several
/// hosts the one is used that takes writes.
///
/// Query keys: the driver's (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `options`, …), and `schema`, `migrate` (`always` or
/// `never`), `idle_after`.
#[derive(Clone, Debug, Default)]
pub struct PostgresConnector {
    options: PostgresOptions,
}

impl PostgresConnector {
    /// A connector with the usual options.
    pub fn new() -> PostgresConnector {
        PostgresConnector::default()
    }

    /// A connector whose URLs begin with these options.
    pub fn with_options(options: PostgresOptions) -> PostgresConnector {
        PostgresConnector { options }
    }

    /// As [`connect`](Connector::connect), but connects at the first call.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a URL that cannot be.
    pub fn open(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.backend(url).map_err(|error| error.during(Operation::Connect))?))
    }

    fn backend(&self, url: &mut StoreUrl) -> Result<PostgresBackend> {
        let mut options = self.options.clone();
        if let Some(schema) = url.take("schema") {
            options = options.schema(schema);
        }
        match url.take("migrate").as_deref() {
            None => {}
            Some("always") => options = options.migrate(true),
            Some("never") => options = options.migrate(false),
            Some(_) => return Err(wrong("migrate is always or never")),
        }
        if let Some(time) = url.take_duration("idle_after")? {
            options = options.idle_after(time);
        }
        let mut query = Vec::new();
        for key in DRIVERS {
            if let Some(value) = url.take(key) {
                query.push((key.to_owned(), value));
            }
        }
        let rest = url.take_rest();
        let (settings, unknown): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(key, _)| key.starts_with("options["));
        if let Some((key, _)) = unknown.first() {
            return Err(wrong(format!(
                "{key:?} is no query key of a postgres: URL; there are schema, migrate, idle_after, ttl, prefix, name, strict, \
                 connect_timeout, call_timeout, password_file and the driver's: {}",
                DRIVERS.join(", ")
            )));
        }
        query.extend(settings);
        if let Some(place) = query.iter().position(|(key, _)| key == "target_session_attrs") {
            let (_, wanted) = query.remove(place);
            if !matches!(wanted.as_str(), "read-write" | "primary" | "any") {
                return Err(wrong(
                    "target_session_attrs is read-write: a server that takes no writes keeps no locks",
                ));
            }
        }
        let hosts = if url.hosts().is_empty() { vec![None] } else { url.hosts().iter().map(Some).collect() };
        let drivers = hosts
            .into_iter()
            .map(|host| {
                let text = driver_url(url, host, &query);
                // What the driver says of it is not repeated: there may be a password in it.
                PgConnectOptions::from_str(&text).map_err(|_| wrong("the driver takes this URL for none of Postgres: check host, port, sslmode and sslrootcert"))
            })
            .collect::<Result<Vec<_>>>()?;
        PostgresBackend::new(Dial::new(drivers, options)?)
    }
}

#[async_trait]
impl Connector for PostgresConnector {
    fn schemes(&self) -> &[&'static str] {
        &["postgres", "postgresql"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let backend = self.backend(url).map_err(|error| error.during(Operation::Connect))?;
        backend.connect().await?;
        Ok(Arc::new(backend))
    }
}

/// As the driver reads it, with one of the hosts.
fn driver_url(url: &StoreUrl, host: Option<&lock_core::Host>, query: &[(String, String)]) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut text = String::from("postgres://");
    // Where no host follows, the driver reads neither there: they go into the query.
    let mut login = Vec::new();
    let (user, password) = (url.user(), url.password().map(ExposeSecret::expose_secret));
    if host.is_none() {
        login.extend(user.map(|user| ("user", user)));
        login.extend(password.map(|password| ("password", password)));
    } else if user.is_some() || password.is_some() {
        text += &encoded(user.unwrap_or_default());
        if let Some(password) = password {
            text = text + ":" + &encoded(password);
        }
        text.push('@');
    }
    if let Some(host) = host {
        text += &match host.name.as_str() {
            name if name.contains(':') => format!("[{name}]"),
            // A directory with the server's socket.
            name if name.starts_with('/') => encoded(name),
            name => name.to_owned(),
        };
        if let Some(port) = host.port {
            text = text + ":" + &port.to_string();
        }
    }
    text = text + "/" + &encoded(url.path().trim_start_matches('/'));
    let query = query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (place, (key, value)) in login.into_iter().chain(query).enumerate() {
        text.push(if place == 0 { '?' } else { '&' });
        text = text + &encoded(key) + "=" + &encoded(value);
    }
    text
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
