//! From a URL to a client: [`connect`], and the [`Registry`] that stores of others join.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    BootTime, Clock, Connector, Error, ErrorKind, Finding, LockClient, LockClientBuilder, Operation, Result,
    Severity, StoreUrl, SystemClock,
};

/// The schemes that this version knows, and the feature that brings each of them.
const KNOWN: [(&str, &str); 15] = [
    ("memory", "memory"),
    ("file", "file"),
    ("redis", "redis"),
    ("rediss", "redis"),
    ("redis+unix", "redis"),
    ("redis+sentinel", "redis"),
    ("rediss+sentinel", "redis"),
    ("redis+cluster", "redis"),
    ("rediss+cluster", "redis"),
    ("etcd", "etcd"),
    ("etcds", "etcd"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("zookeeper", "zookeeper"),
    ("zookeepers", "zookeeper"),
];

/// Those of stores that are planned: who asks for one has not mistyped it.
const PLANNED: [&str; 1] = ["cometbft"];

/// How long [`connect`] tries, unless `connect_timeout=` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the store that a URL names, and returns once it has answered.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fencepost::Result<()> {
/// let client = fencepost::connect("memory:?ttl=5s").await?;
/// let guard = client.mutex("nightly-report")?.acquire().await?;
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
///
/// Query keys of every store: `ttl` (10s), `prefix`, `name`, `strict` (refuse unsafe settings), `connect_timeout`
/// (10s), `call_timeout` (5s), `password_file`. Each store's page lists its own; any other is an error that names it.
///
/// Each call has a registry of its own: clients that shall share a `memory:NAME` store come from one [`Registry`].
///
/// # Errors
/// [`Misconfigured`](ErrorKind::Misconfigured) for a URL that cannot be, naming a feature that is off or a key that is
/// unknown; [`Unsafe`](ErrorKind::Unsafe) in strict mode; otherwise what the store had to say.
pub async fn connect(url: &str) -> Result<LockClient> {
    Registry::new().connect(url).await
}

/// The stores that URLs can name: those of the features that are on, and those that were added.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fencepost::Result<()> {
/// use fencepost::Registry;
///
/// let registry = Registry::new(); // .with(MyConnector)
/// let one = registry.connect("memory:shared").await?;
/// let other = registry.connect("memory:shared").await?;
/// let guard = one.mutex("k")?.acquire().await?;
/// assert!(other.mutex("k")?.try_acquire().await?.is_err());
/// # drop(guard);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Registry {
    connectors: Vec<Arc<dyn Connector>>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::new()
    }
}

impl Registry {
    /// The stores of the features that are on.
    pub fn new() -> Registry {
        let registry = Registry::empty();
        #[cfg(feature = "memory")]
        let registry = registry.with(lock_core::MemoryConnector::new());
        #[cfg(all(feature = "file", target_os = "linux"))]
        let registry = registry.with(lock_file::FileConnector::new());
        #[cfg(feature = "redis")]
        let registry = registry.with(lock_redis::RedisConnector::new());
        #[cfg(feature = "etcd")]
        let registry = registry.with(lock_etcd::EtcdConnector::new());
        #[cfg(feature = "postgres")]
        let registry = registry.with(lock_postgres::PostgresConnector::new());
        #[cfg(feature = "zookeeper")]
        let registry = registry.with(lock_zookeeper::ZooKeeperConnector::new());
        registry
    }

    /// No store at all.
    pub fn empty() -> Registry {
        Registry { connectors: Vec::new() }
    }

    /// Adds a store. Its schemes go before those that were there.
    #[must_use]
    pub fn with(mut self, connector: impl Connector) -> Registry {
        self.connectors.insert(0, Arc::new(connector));
        self
    }

    /// As [`connect`], among these stores.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(&self, url: &str) -> Result<LockClient> {
        let mut url = StoreUrl::parse(url)?;
        let shown = url.to_string();
        let limit = url.take_duration("connect_timeout")?.unwrap_or(CONNECT_TIMEOUT);
        let clock = SystemClock::new();
        let connected =
            within(&clock, limit, self.connect_to(&mut url, clock.boot() + limit / 20 * 19)).await;
        connected.map_err(|error| error.during(Operation::Connect).at(shown))
    }

    async fn connect_to(&self, url: &mut StoreUrl, until: BootTime) -> Result<LockClient> {
        let connector = self.connector(url.scheme())?;
        if let Some(password) = url.take_secret_file("password_file")? {
            url.set_password(password);
        }
        let strict = url.take_flag("strict")?;
        // Taken before the connector sees the URL, for it may take all that is left.
        let settings = CommonKeys::take(url)?;
        let backend = connector.connect(url).await?;
        url.finish()?;
        let client = settings.apply(LockClient::builder(backend))?.build()?;
        heed(client.probe().await?, strict)?;
        // Before all time is over: it knows why the last attempt failed.
        client.open_within(until.since(SystemClock::new().boot())).await?;
        Ok(client)
    }

    fn connector(&self, scheme: &str) -> Result<&Arc<dyn Connector>> {
        if let Some(found) = self.connectors.iter().find(|connector| connector.schemes().contains(&scheme)) {
            return Ok(found);
        }
        let mut here: Vec<_> =
            self.connectors.iter().flat_map(|c| c.schemes()).map(|s| format!("{s}:")).collect();
        here.sort_unstable();
        here.dedup();
        let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
        Err(misconfigured(match KNOWN.iter().find(|(known, _)| *known == scheme) {
            Some(("file", _)) if cfg!(not(target_os = "linux")) => {
                "the file: store works on Linux only: it rests on named pipes, file locks and clocks as Linux has them"
                    .to_owned()
            }
            Some((_, feature)) => format!(
                "this build has no {scheme}: store (it has {here}); switch on the feature \"{feature}\" of fencepost"
            ),
            None if PLANNED.contains(&scheme) => {
                format!("the {scheme}: store is planned, and not in this version (this build has {here})")
            }
            None => format!("no store is called {scheme}: (this build has {here})"),
        }))
    }
}

/// The common query keys, from the URL until there is a backend to build a client of.
struct CommonKeys(StoreUrl);

impl CommonKeys {
    const KEYS: [&str; 4] = ["ttl", "prefix", "name", "call_timeout"];

    fn take(url: &mut StoreUrl) -> Result<CommonKeys> {
        Ok(CommonKeys(url.split_off(&Self::KEYS)))
    }

    fn apply(mut self, builder: LockClientBuilder) -> Result<LockClientBuilder> {
        builder.from_url(&mut self.0)
    }
}

fn heed(findings: Vec<Finding>, strict: bool) -> Result<()> {
    let refused: Vec<_> = findings.iter().filter(|f| strict && f.severity == Severity::Unsafe).collect();
    if !refused.is_empty() {
        let list: Vec<_> = refused.iter().map(ToString::to_string).collect();
        return Err(Error::new(ErrorKind::Unsafe, format!("strict=true, and {}", list.join("; "))));
    }
    for finding in findings {
        tracing::warn!(target: "fencepost", "{finding}");
    }
    Ok(())
}

async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut timer = clock.sleep(limit);
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(context) {
            return std::task::Poll::Ready(done);
        }
        timer.as_mut().poll(context).map(|()| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("no answer within connect_timeout ({limit:?}): is the store running, and the address right?"),
            ))
        })
    })
    .await
}

fn misconfigured(message: String) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
