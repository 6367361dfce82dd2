//! [`Dial`]: where servers are, and how a connection to one of them is made.

use std::fmt;
use std::time::Duration;

use lock_core::{Effect, Error, Result, SystemClock, within};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{Connection, Row};

use crate::failure::failed_at_first;
use crate::options::PostgresOptions;
use crate::schema::Schema;

/// Where servers are. The first that takes writes is used.
pub(crate) struct Dial {
    /// One at least.
    hosts: Vec<PgConnectOptions>,
    options: PostgresOptions,
    pub(crate) schema: Schema,
}

impl Dial {
    pub(crate) fn new(hosts: Vec<PgConnectOptions>, options: PostgresOptions) -> Result<Dial> {
        if hosts.is_empty() {
            return Err(Error::invalid("there is no host: name one server of Postgres at least"));
        }
        let schema = Schema::new(&options.schema)?;
        Ok(Dial { hosts, options, schema })
    }

    pub(crate) fn idle_after(&self) -> Duration {
        self.options.idle_after
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.options.connect_timeout
    }

    /// All of them, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(place).collect();
        let database = self.hosts.first().and_then(PgConnectOptions::get_database).unwrap_or_default();
        format!("postgres://{}/{database}", hosts.join(","))
    }

    /// A connection for statements, to a server that takes writes and has the schema.
    pub(crate) async fn line(&self) -> Result<PgConnection> {
        let mut refusal = None;
        for host in &self.hosts {
            match self.within_its_share(self.line_to(host)).await {
                Ok(line) => return Ok(line),
                // One that is there and refuses says more than one that is not.
                Err(error) if refusal.as_ref().is_none_or(Error::is_retryable) => {
                    refusal = Some(error.at(format!("postgres://{}", place(host))));
                }
                Err(_) => {}
            }
        }
        Err(refusal.unwrap_or_else(|| Error::unavailable("there is no host")))
    }

    async fn line_to(&self, host: &PgConnectOptions) -> Result<PgConnection> {
        let mut connection = PgConnection::connect_with(host).await.map_err(failed_at_first)?;
        takes_writes(&mut connection).await?;
        sees_what_is_committed(&mut connection).await?;
        self.schema.is_there(&mut connection, self.options.migrate).await?;
        Ok(connection)
    }

    /// A connection for what comes on a channel, to a server that takes writes. It does not reconnect by itself.
    pub(crate) async fn listener(&self, channel: &str) -> Result<PgListener> {
        let mut refusal = None;
        for host in &self.hosts {
            match self.within_its_share(self.listener_to(host, channel)).await {
                Ok(listener) => return Ok(listener),
                Err(error) => drop(refusal.get_or_insert(error.at(format!("postgres://{}", place(host))))),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::unavailable("there is no host")))
    }

    async fn listener_to(&self, host: &PgConnectOptions, channel: &str) -> Result<PgListener> {
        // The driver's listener wants a pool to come from.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            // Before whoever waits for it gives up without having heard why.
            .acquire_timeout(self.share() * 19 / 20)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(host.clone())
            .await
            .map_err(failed_at_first)?;
        let mut listener = PgListener::connect_with(&pool).await.map_err(failed_at_first)?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        takes_writes(&mut listener).await?;
        listener.listen(channel).await.map_err(failed_at_first)?;
        Ok(listener)
    }

    fn share(&self) -> Duration {
        self.options.connect_timeout / u32::try_from(self.hosts.len()).unwrap_or(u32::MAX).max(1)
    }

    async fn within_its_share<T>(&self, connecting: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.share();
        within(&SystemClock::new(), limit, connecting).await.unwrap_or_else(|| {
            Err(Error::unavailable(format!(
                "no answer within {limit:?}; is it up, and can it be reached from here?"
            ))
            .effect(Effect::NotApplied))
        })
    }
}

impl fmt::Debug for Dial {
    /// Without the driver's options: there is a password in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint())
    }
}

/// A standby is of no use.
async fn takes_writes(connection: impl sqlx::PgExecutor<'_>) -> Result<()> {
    let asked = sqlx::query("SELECT pg_is_in_recovery()").persistent(false).fetch_one(connection).await;
    let is_standby: bool = asked.and_then(|row| row.try_get(0)).map_err(failed_at_first)?;
    if is_standby {
        return Err(Error::unavailable(
            "the server is a standby, and takes no writes: name the primary, or all of them, as in postgres://a,b/database",
        )
        .effect(Effect::NotApplied));
    }
    Ok(())
}

/// The functions lock a row, and then look at what was committed until then. With the role's default another isolation, they would
/// look at what was committed before they began, and grant a claim that was given back meanwhile.
async fn sees_what_is_committed(connection: &mut PgConnection) -> Result<()> {
    const SET: &str = "SELECT set_config('default_transaction_isolation', 'read committed', false) \
                       WHERE current_setting('default_transaction_isolation') <> 'read committed'";
    sqlx::query(SET).persistent(false).execute(connection).await.map(drop).map_err(failed_at_first)
}

fn place(host: &PgConnectOptions) -> String {
    match host.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => {
            let name = host.get_host();
            if name.contains(':') && !name.starts_with('[') {
                format!("[{name}]:{}", host.get_port())
            } else {
                format!("{name}:{}", host.get_port())
            }
        }
    }
}
