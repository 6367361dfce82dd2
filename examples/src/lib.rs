//! Servers for the examples that need one: the one that the environment names, or one that is started for the occasion.

#![forbid(unsafe_code)]

use fencepost::Result;
use lock_conformance::servers;

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    url: String,
    /// Ends with this.
    _own: Option<servers::Redis>,
}

impl Redis {
    /// The server that `REDIS_URL` names; without it one of its own, which ends with the example.
    ///
    /// # Errors
    /// No server is named, and `redis-server` is not installed or does not start.
    pub async fn of_the_environment() -> Result<Redis> {
        if let Ok(url) = std::env::var("REDIS_URL") {
            return Ok(Redis { url, _own: None });
        }
        let own = servers::Redis::start().await?;
        Ok(Redis { url: own.url(), _own: Some(own) })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}
