//! From a URL to a backend: [`StoreUrl`], and the [`Connector`] that a store offers for its schemes.

mod url;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::url::{Host, StoreUrl};
use crate::backend::Backend;
use crate::error::Result;

/// How a store is reached by URL. A registry holds one for each store; there is no global list.
///
/// A connector takes what it knows out of the URL's query; whatever is left when it returns is an error that names
/// the unknown key. Common keys (`ttl`, `prefix`, `name`, …) were taken before. User, hosts and path are the connector's
/// to look at: what it has no use for it refuses, for a user who wrote it means something by it.
#[async_trait]
pub trait Connector: Debug + Send + Sync + 'static {
    /// The schemes it answers for, in lower case and without the colon.
    fn schemes(&self) -> &[&'static str];

    /// Connects, and returns once the store has answered. The caller bounds it by `connect_timeout`.
    ///
    /// Called once for each client. Clients of stores that live in this process share one if the connector keeps it.
    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>>;
}

const _: fn(&dyn Connector) = |_| {};
