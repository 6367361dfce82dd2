//! [`LockClientBuilder`].

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::LockClient;
use crate::backend::Backend;
use crate::clock::{Clock, SystemClock};
use crate::connect::StoreUrl;
use crate::engine::{Engine, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::holder::HolderInfo;
use crate::key::Prefix;
use crate::options::AcquireOptions;
use crate::retry::RetryPolicy;

/// Builds a [`LockClient`]. Lazy: nothing is sent before the first lock is asked for.
#[derive(Clone, Debug)]
pub struct LockClientBuilder {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    call_timeout: Duration,
    retry: RetryPolicy,
    prefix: Option<Prefix>,
    name: Option<String>,
    defaults: AcquireOptions,
    runtime: Option<Handle>,
}

impl LockClientBuilder {
    /// The TTL when none is given.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);
    /// The deadline of one call when none is given.
    pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn new(backend: Arc<dyn Backend>) -> LockClientBuilder {
        LockClientBuilder {
            backend,
            clock: Arc::new(SystemClock::new()),
            ttl: Self::DEFAULT_TTL,
            call_timeout: Self::DEFAULT_CALL_TIMEOUT,
            retry: RetryPolicy::default(),
            prefix: None,
            name: None,
            defaults: AcquireOptions::new(),
            runtime: None,
        }
    }

    /// For how long the store keeps what this client holds once it hears nothing more from it: 100 ms to 24 h, 10 s
    /// unless set. Renewed every third of it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long one call to the store may take; 5 s unless set.
    #[must_use]
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// How transport errors are retried.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Keeps this client's keys apart from those of clients with another prefix, or none.
    #[must_use]
    pub fn prefix(mut self, prefix: Prefix) -> Self {
        self.prefix = Some(prefix);
        self
    }

    /// What this client is called, for people who look for the holder of a lock.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What every acquisition asks for unless it says otherwise.
    #[must_use]
    pub fn defaults(mut self, options: AcquireOptions) -> Self {
        self.defaults = options;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The runtime on which sessions are kept; the one that `build` is called on unless set. It needs time and I/O
    /// (`enable_all`).
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Takes the query keys of a URL that are common to all stores: `ttl`, `prefix`, `name`, `call_timeout`.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a value that cannot be.
    pub fn from_url(mut self, url: &mut StoreUrl) -> Result<Self> {
        let misconfigured =
            |error: Error| Error::new(ErrorKind::Misconfigured, error.message().to_owned()).caused_by(error);
        if let Some(ttl) = url.take_duration("ttl")? {
            self.ttl = ttl;
        }
        if let Some(limit) = url.take_duration("call_timeout")? {
            self.call_timeout = limit;
        }
        if let Some(prefix) = url.take("prefix") {
            self.prefix = Some(Prefix::new(prefix).map_err(misconfigured)?);
        }
        if let Some(name) = url.take("name") {
            self.name = Some(name);
        }
        Ok(self)
    }

    /// The client.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a setting out of bounds, and outside a Tokio runtime when none was
    /// given.
    pub fn build(self) -> Result<LockClient> {
        let settings = Settings {
            ttl: self.ttl,
            call_timeout: self.call_timeout,
            retry: self.retry,
            prefix: self.prefix,
            info: HolderInfo::of_this_process(self.name.as_deref()),
            defaults: self.defaults,
        };
        settings.check()?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|error| {
                Error::invalid("a client is built inside a Tokio runtime, or is given one by its builder")
                    .caused_by(error)
            })?,
        };
        Ok(LockClient { engine: Engine::new(self.backend, self.clock, settings, runtime) })
    }
}
