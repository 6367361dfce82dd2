//! Locks in PostgreSQL 12 or later, for fencepost.
//!
//! One statement to acquire, one to release; first come, first served; a token is above the server's clock. A transaction of the
//! application's own can be fenced, so that its writes and the lock commit together. What is promised and what is not stands in
//! `docs/backends/postgres.md`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod ask;
mod backend;
mod connector;
mod dial;
mod ears;
mod failure;
mod fence;
mod known;
mod line;
mod names;
mod options;
mod probe;
mod schema;
mod serve;
mod session;
mod sight;
mod store;
mod sweep;

use std::sync::Arc;

use lock_core::{Backend, Result};

use self::backend::PostgresBackend;
use self::dial::Dial;

/// The driver, in the version that this crate is built with.
pub use sqlx;

pub use self::connector::PostgresConnector;
pub use self::fence::fence;
pub use self::options::PostgresOptions;

/// A backend over a server that an application reaches with options of its own for the driver.
///
/// ```
/// use lock_postgres::{PostgresOptions, sqlx::postgres::PgConnectOptions};
///
/// # fn main() -> lock_core::Result<()> {
/// let driver = PgConnectOptions::new().host("db").username("locks").password("from a vault");
/// let backend = lock_postgres::backend(driver, PostgresOptions::new())?;
/// # let _ = backend;
/// # Ok(())
/// # }
/// ```
///
/// It connects at the first call, and then has two connections of its own, one for its statements and one on which it hears of
/// what it waits for.
///
/// # Errors
/// [`InvalidInput`](lock_core::ErrorKind::InvalidInput) for a schema that cannot be one.
pub fn backend(
    driver: sqlx::postgres::PgConnectOptions,
    options: PostgresOptions,
) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(PostgresBackend::new(Dial::new(vec![driver], options)?)?))
}

/// What a database has to have before locks can be kept in it: the statements that make schema, tables and functions. Run them as
/// whoever is to own them, in one transaction.
///
/// ```
/// let ddl = lock_postgres::schema(&lock_postgres::PostgresOptions::new())?;
/// assert!(ddl.contains("CREATE TABLE fencepost.lock"));
/// # Ok::<(), lock_core::Error>(())
/// ```
///
/// # Errors
/// [`InvalidInput`](lock_core::ErrorKind::InvalidInput) for a schema that cannot be one.
pub fn schema(options: &PostgresOptions) -> Result<String> {
    Ok(schema::Schema::new(&options.schema)?.statements())
}
