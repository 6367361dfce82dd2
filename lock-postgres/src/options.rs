//! [`PostgresOptions`]: how a store in Postgres is used.

use std::time::Duration;

/// How a store in Postgres is used.
///
/// ```
/// use lock_postgres::PostgresOptions;
///
/// let options = PostgresOptions::new().schema("billing_locks").migrate(false);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(crate) schema: String,
    pub(crate) migrate: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_after: Duration,
}

impl PostgresOptions {
    /// Schema `fencepost`, which is made where it is missing; five seconds to connect; idle keys go after an hour.
    pub fn new() -> PostgresOptions {
        PostgresOptions {
            schema: "fencepost".to_owned(),
            migrate: true,
            connect_timeout: Duration::from_secs(5),
            idle_after: Duration::from_secs(3600),
        }
    }

    /// The schema that has the tables and functions: 1 to 40 lower-case ASCII letters, digits or `_`, a letter or `_` first.
    /// Whoever is to share locks uses the same one.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> PostgresOptions {
        self.schema = schema.into();
        self
    }

    /// Whether the schema is made, or brought to this version, where that has not been done; one in which roles have a hand that are
    /// neither this one nor the database's owner nor superusers is refused. Otherwise its version is only looked at, and it is trusted:
    /// see [`schema`](crate::schema) for the statements.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> PostgresOptions {
        self.migrate = migrate;
        self
    }

    /// How long one attempt to connect may take. Of several hosts, each has its share of it.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> PostgresOptions {
        self.connect_timeout = limit;
        self
    }

    /// For how long a key that nobody holds is kept at least. Its tokens rise from the server's clock afterwards.
    #[must_use]
    pub fn idle_after(mut self, time: Duration) -> PostgresOptions {
        self.idle_after = time;
        self
    }
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions::new()
    }
}
