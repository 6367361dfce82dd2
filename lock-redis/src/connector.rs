//! [`RedisConnector`]: from `redis://host` to a backend.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Error, ErrorKind, ExposeSecret, Operation, Result, StoreUrl};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::backend::RedisBackend;
use crate::options::RedisOptions;

const PORT: u16 = 6379;

/// Answers for `redis://[user][:password@]host[:port][/db]` and `redis+unix:///path/to/socket`. Query keys: `namespace`,
/// `idle_after`; for a socket also `db`.
#[derive(Clone, Debug, Default)]
pub struct RedisConnector {
    options: RedisOptions,
}

impl RedisConnector {
    /// A connector with the usual options.
    pub fn new() -> RedisConnector {
        RedisConnector::default()
    }

    /// A connector whose URLs begin with these options: the way to a credentials callback.
    pub fn with_options(options: RedisOptions) -> RedisConnector {
        RedisConnector { options }
    }
}

#[async_trait]
impl Connector for RedisConnector {
    fn schemes(&self) -> &[&'static str] {
        &["redis", "redis+unix"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let mut options = self.options.clone();
        if let Some(namespace) = url.take("namespace") {
            options = options.namespace(namespace);
        }
        if let Some(time) = url.take_duration("idle_after")? {
            options = options.idle_after(time);
        }
        let (address, database) = match url.scheme() {
            "redis+unix" => socket(url)?,
            _ => server(url)?,
        };
        let info = settings(address, database, url)?;
        // Whatever nobody knows is refused before anything is sent.
        url.finish()?;
        let backend = RedisBackend::new(&info, options).map_err(|error| error.during(Operation::Connect))?;
        backend.connect().await?;
        Ok(Arc::new(backend))
    }
}

fn server(url: &StoreUrl) -> Result<(ConnectionAddr, i64)> {
    let [host] = url.hosts() else {
        return Err(wrong("a redis: URL names one server, as in redis://localhost:6379"));
    };
    let database = match url.path() {
        "" | "/" => 0,
        path => database(&path[1..])?,
    };
    Ok((ConnectionAddr::Tcp(host.name.clone(), host.port.unwrap_or(PORT)), database))
}

fn socket(url: &mut StoreUrl) -> Result<(ConnectionAddr, i64)> {
    let database = url.take("db").map_or(Ok(0), |text| database(&text))?;
    if !url.hosts().is_empty() || !url.path().starts_with('/') {
        return Err(wrong(
            "a redis+unix: URL names a socket by its absolute path, with three slashes: redis+unix:///run/redis.sock",
        ));
    }
    Ok((ConnectionAddr::Unix(url.path().into()), database))
}

fn settings(address: ConnectionAddr, database: i64, url: &StoreUrl) -> Result<ConnectionInfo> {
    let mut redis = RedisConnectionInfo::default().set_db(database);
    if let Some(user) = url.user() {
        redis = redis.set_username(user);
    }
    if let Some(password) = url.password() {
        redis = redis.set_password(password.expose_secret());
    }
    let info = address
        .into_connection_info()
        .map_err(|error| wrong("the driver refuses this address").caused_by(error))?;
    Ok(info.set_redis_settings(redis))
}

fn database(text: &str) -> Result<i64> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| {
        wrong(format!("{text:?} is no number of a Redis database, as the 2 in redis://localhost/2"))
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message).during(Operation::Connect)
}
