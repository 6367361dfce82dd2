//! [`RedisConnector`]: from `redis://host` to a backend.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Error, ErrorKind, ExposeSecret, Operation, Result, StoreUrl};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::address::Address;
use crate::backend::RedisBackend;
use crate::cluster::Cluster;
use crate::dial::{Target, as_user};
use crate::names::Namespace;
use crate::options::{Credentials, RedisOptions};
use crate::sentinel::Sentinels;
use crate::store::Store;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Answers for these URLs; with `rediss` in place of `redis`, through TLS:
///
/// - `redis://[user][:password@]host[:6379][/db]`: one server;
/// - `redis+unix:///path/to/socket[?db=0]`: one server, through its socket;
/// - `redis+sentinel://[user][:password@]host[:26379],…/name[?db=0]`: whichever server the sentinels call the primary of
///   that name, with the user and the password of the server;
/// - `redis+cluster://[user][:password@]host[:6379],…`: a cluster, of which some nodes are named.
///
/// Query keys: `namespace`, `idle_after`, `client_name`; for sentinels `sentinel_user`, `sentinel_password_file`; with TLS
/// `ca_file`, `cert_file`, `key_file`.
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

    /// As [`connect`](Connector::connect), but connects at the first call.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a URL that cannot be.
    pub fn open(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.backend(url).map_err(|error| error.during(Operation::Connect))?))
    }

    fn backend(&self, url: &mut StoreUrl) -> Result<RedisBackend> {
        let options = options(self.options.clone(), url)?;
        let (namespace, idle_after) = (Namespace::new(&options.namespace)?, options.idle_after);
        let store = match url.scheme() {
            "redis+unix" => Store::one(Target::Server(Box::new(socket(url)?)), options),
            "redis+sentinel" | "rediss+sentinel" => {
                let target = Target::Primary(Arc::new(sentinels(url, &options)?));
                Store::one(target, options)
            }
            "redis+cluster" | "rediss+cluster" => {
                let (seeds, like) = cluster(url)?;
                Store::Cluster(Box::new(Cluster::new(seeds, like, options)))
            }
            _ => Store::one(Target::Server(Box::new(server(url)?)), options),
        };
        // Whatever nobody knows is refused before anything is sent.
        url.finish()?;
        Ok(RedisBackend::new(store, namespace, idle_after))
    }
}

#[async_trait]
impl Connector for RedisConnector {
    fn schemes(&self) -> &[&'static str] {
        &[
            "redis",
            "rediss",
            "redis+unix",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
        ]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let backend = self.backend(url).map_err(|error| error.during(Operation::Connect))?;
        backend.connect(self.options.connect_timeout).await?;
        Ok(Arc::new(backend))
    }
}

fn options(mut options: RedisOptions, url: &mut StoreUrl) -> Result<RedisOptions> {
    if let Some(namespace) = url.take("namespace") {
        options = options.namespace(namespace);
    }
    if let Some(time) = url.take_duration("idle_after")? {
        options = options.idle_after(time);
    }
    if let Some(name) = url.take("client_name") {
        options = options.client_name(name);
    }
    options.tls.take(url)?;
    options.tls.suit(url.scheme().starts_with("rediss"), "rediss")?;
    Ok(options)
}

fn server(url: &StoreUrl) -> Result<ConnectionInfo> {
    let [host] = url.hosts() else {
        return Err(wrong(
            "a redis: URL names one server, as in redis://localhost:6379 (several: redis+sentinel: or redis+cluster:)",
        ));
    };
    let database = match url.path() {
        "" | "/" => 0,
        path => database(&path[1..])?,
    };
    info(address(url, host.name.clone(), host.port.unwrap_or(PORT)), settings(url).set_db(database))
}

fn socket(url: &mut StoreUrl) -> Result<ConnectionInfo> {
    let database = url.take("db").map_or(Ok(0), |text| database(&text))?;
    if !url.hosts().is_empty() || !url.path().starts_with('/') {
        return Err(wrong(
            "a redis+unix: URL names a socket by its absolute path, with three slashes: redis+unix:///run/redis.sock",
        ));
    }
    info(ConnectionAddr::Unix(url.path().into()), settings(url).set_db(database))
}

fn sentinels(url: &mut StoreUrl, options: &RedisOptions) -> Result<Sentinels> {
    let database = url.take("db").map_or(Ok(0), |text| database(&text))?;
    let (user, password) = (url.take("sentinel_user"), url.take_secret_file("sentinel_password_file")?);
    let credentials = match (password, user) {
        (Some(password), user) => Some(Credentials::new(user, password)),
        (None, None) => options.sentinel_credentials.clone(),
        (None, Some(_)) => {
            return Err(wrong(
                "sentinel_user is given without its password: sentinel_password_file is missing",
            ));
        }
    };
    let name = url.path().trim_start_matches('/').to_owned();
    if name.is_empty() || name.contains('/') || url.hosts().is_empty() {
        return Err(wrong(
            "a redis+sentinel: URL names the sentinels, and the primary that they watch: redis+sentinel://s1,s2,s3/name",
        ));
    }
    let account = |settings| match &credentials {
        Some(credentials) => as_user(settings, credentials),
        None => settings,
    };
    let infos = url.hosts().iter().map(|host| {
        let address = address(url, host.name.clone(), host.port.unwrap_or(SENTINEL_PORT));
        info(address, account(RedisConnectionInfo::default()))
    });
    // The address of the primary takes the place of this one.
    let server = info(address(url, String::new(), PORT), settings(url).set_db(database))?;
    Ok(Sentinels::new(infos.collect::<Result<_>>()?, name, server))
}

fn cluster(url: &StoreUrl) -> Result<(Vec<Address>, ConnectionInfo)> {
    if url.hosts().is_empty() || !matches!(url.path(), "" | "/") {
        return Err(wrong(
            "a redis+cluster: URL names some of the nodes, and no database: redis+cluster://n1,n2,n3",
        ));
    }
    let seeds = url.hosts().iter().map(|host| Address::new(host.name.clone(), host.port.unwrap_or(PORT)));
    let like = info(address(url, String::new(), PORT), settings(url))?;
    Ok((seeds.collect(), like))
}

fn address(url: &StoreUrl, host: String, port: u16) -> ConnectionAddr {
    if url.scheme().starts_with("rediss") {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// The user and password of the URL.
fn settings(url: &StoreUrl) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default();
    if let Some(user) = url.user() {
        settings = settings.set_username(user);
    }
    if let Some(password) = url.password() {
        settings = settings.set_password(password.expose_secret());
    }
    settings
}

fn info(address: ConnectionAddr, settings: RedisConnectionInfo) -> Result<ConnectionInfo> {
    let info = address
        .into_connection_info()
        .map_err(|error| wrong("the driver refuses this address").caused_by(error))?;
    Ok(info.set_redis_settings(settings))
}

fn database(text: &str) -> Result<i64> {
    let number = text.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| {
        wrong(format!("{text:?} is no number of a Redis database, as the 2 in redis://localhost/2"))
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
