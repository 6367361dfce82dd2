//! Servers for the examples that need one: the one that the environment names, or one that is started for the occasion.

#![forbid(unsafe_code)]

use fencepost::{Host, Result, StoreUrl};
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

/// An etcd server, without accounts and without TLS.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    /// Ends with this.
    _own: Option<servers::Etcd>,
}

impl Etcd {
    /// The server or cluster that `ETCD_URL` names; without it a server of its own, which ends with the example.
    ///
    /// # Errors
    /// No server is named, and `etcd` is not installed or does not start.
    pub async fn of_the_environment() -> Result<Etcd> {
        if let Ok(url) = std::env::var("ETCD_URL") {
            return Ok(Etcd { url, _own: None });
        }
        let own = servers::Etcd::start().await?;
        Ok(Etcd { url: format!("etcd://{}", own.address()), _own: Some(own) })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its servers, as the driver wants them.
    ///
    /// # Errors
    /// Its URL is none.
    pub fn endpoints(&self) -> Result<Vec<String>> {
        let url = StoreUrl::parse(&self.url)?;
        let with_port = |host: &Host| match host.port {
            Some(_) => host.to_string(),
            None => format!("{host}:2379"),
        };
        Ok(url.hosts().iter().map(with_port).collect())
    }
}

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    /// Ends with this.
    _own: Option<servers::Postgres>,
}

impl Postgres {
    /// The database that `DATABASE_URL` names; without it a server of its own, which ends with the example.
    ///
    /// # Errors
    /// No database is named, and PostgreSQL is not installed or does not start.
    pub async fn of_the_environment() -> Result<Postgres> {
        if let Ok(url) = std::env::var("DATABASE_URL") {
            return Ok(Postgres { url, _own: None });
        }
        let own = servers::Postgres::start().await?;
        Ok(Postgres { url: own.url(), _own: Some(own) })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A ZooKeeper server, without accounts and without TLS.
#[derive(Debug)]
pub struct ZooKeeper {
    url: String,
    /// Ends with this.
    _own: Option<servers::ZooKeeper>,
}

impl ZooKeeper {
    /// The server or ensemble that `ZOOKEEPER_URL` names; without it a server of its own, which ends with the example.
    ///
    /// # Errors
    /// No server is named, and ZooKeeper is not installed or does not start.
    pub async fn of_the_environment() -> Result<ZooKeeper> {
        if let Ok(url) = std::env::var("ZOOKEEPER_URL") {
            return Ok(ZooKeeper { url, _own: None });
        }
        let own = servers::ZooKeeper::start().await?;
        Ok(ZooKeeper {
            url: format!("zookeeper://{}?tick={}ms", own.address(), own.tick().as_millis()),
            _own: Some(own),
        })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its servers, as the driver wants them.
    ///
    /// # Errors
    /// Its URL is none.
    pub fn servers(&self) -> Result<String> {
        let url = StoreUrl::parse(&self.url)?;
        let with_port = |host: &Host| match host.port {
            Some(_) => host.to_string(),
            None => format!("{host}:2181"),
        };
        Ok(url.hosts().iter().map(with_port).collect::<Vec<_>>().join(","))
    }
}
