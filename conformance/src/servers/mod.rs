//! Real servers, for the tests of the stores that need one, and what can be done to them.
//!
//! A server listens on a free port of 127.0.0.1, or on an [`Island`], which can be cut off. It keeps its data in a
//! directory of its own, and ends with the value that stands for it: the process and the directory are gone when that is
//! dropped, and also when the test is killed.
//!
//! - [`Redis`]: one server, and replicas of it that can be held back.
//! - [`RedisSentinels`]: a primary and its replicas, one of which takes its place when it is lost or cut off.
//! - [`RedisCluster`]: the same for each part of the keys, and parts that move.
//! - [`Etcd`]: one server, with accounts or with little room.
//! - [`EtcdCluster`]: several that agree, of which the leader is lost or cut off.
//! - [`Postgres`]: one server, with accounts, that takes no writes or no more connections, and replicas of it that can be held
//!   back.
//! - [`PostgresReplication`]: a primary and its replica, which takes its place when it is lost or cut off.
//! - [`PgBouncer`]: clients of a PostgreSQL server share its connections.
//! - [`ZooKeeper`]: one server, and sessions that are ended.
//! - [`ZooKeeperEnsemble`]: several that agree, of which the leader is lost or cut off.
//! - [`Authority`] and [`Tls`]: servers that speak TLS, with certificates that are good or bad.
//! - [`WallClock`]: the time that a server sees.
//!
//! ```no_run
//! # async fn example() -> lock_core::Result<()> {
//! use lock_conformance::servers::{Redis, RedisSetup, Reply};
//!
//! let redis = RedisSetup::new().persistent().start().await?;
//! redis.command(["SET", "k", "v"]).await?;
//! redis.kill().await?;
//! redis.start_again().await?;
//! assert_eq!(redis.command(["GET", "k"]).await?, Reply::Text("v".to_owned()));
//! # Ok(())
//! # }
//! ```

mod account;
mod certificates;
mod cluster;
mod ending;
mod etcd;
mod etcd_calls;
mod etcd_cluster;
mod etcd_gateway;
mod etcd_setup;
mod family;
mod hanging_up;
mod island;
mod peer_network;
mod pgbouncer;
mod ports;
mod postgres;
mod postgres_calls;
mod postgres_programs;
mod postgres_replicas;
mod postgres_replication;
mod postgres_setup;
mod postgres_template;
mod process;
mod psql;
mod redis;
mod redis_answers;
mod redis_cluster;
mod redis_replication;
mod redis_resharding;
mod redis_sentinel;
mod redis_setup;
mod resp;
mod tls;
mod unprivileged;
mod waiting;
mod wall_clock;
mod zookeeper;
mod zookeeper_calls;
mod zookeeper_ensemble;
mod zookeeper_setup;

pub use self::certificates::{Authority, Certificate};
pub use self::cluster::{Cluster, Node};
pub use self::etcd::Etcd;
pub use self::etcd_calls::Permission;
pub use self::etcd_cluster::{EtcdCluster, EtcdClusterSetup};
pub use self::etcd_setup::EtcdSetup;
pub use self::island::Island;
pub use self::pgbouncer::{PgBouncer, PgBouncerSetup, PoolMode};
pub use self::ports::{Port, free_port};
pub use self::postgres::Postgres;
pub use self::postgres_replication::{PostgresReplication, PostgresReplicationSetup};
pub use self::postgres_setup::PostgresSetup;
pub use self::process::{Program, Server};
pub use self::redis::Redis;
pub use self::redis_cluster::{RedisCluster, RedisClusterSetup};
pub use self::redis_resharding::Moving;
pub use self::redis_sentinel::{RedisSentinels, RedisSentinelsSetup};
pub use self::redis_setup::RedisSetup;
pub use self::resp::Reply;
pub use self::tls::{ClientCertificates, Tls};
pub use self::wall_clock::WallClock;
pub use self::zookeeper::ZooKeeper;
pub use self::zookeeper_ensemble::{ZooKeeperEnsemble, ZooKeeperEnsembleSetup};
pub use self::zookeeper_setup::ZooKeeperSetup;
