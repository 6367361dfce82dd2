//! [`Dial`]: where servers are, and how a connection to one of them is made.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{BootTime, Clock, Effect, Error, Result, SystemClock, telemetry, within};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use sqlx::{Connection, Row};

use crate::failure::failed_at_first;
use crate::options::PostgresOptions;
use crate::schema::Schema;

/// How many connections are remembered that were given up and may still be at work on the server.
const ABANDONED: usize = 16;

/// Where servers are. The first that takes writes is used.
pub(crate) struct Dial {
    /// One at least.
    hosts: Vec<PgConnectOptions>,
    /// Which of them the statements go to: news come from there.
    at: AtomicUsize,
    /// And when: what they were at had begun before.
    abandoned: Mutex<Vec<(Process, BootTime)>>,
    options: PostgresOptions,
    pub(crate) schema: Schema,
}

/// What the server has behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    id: i32,
    /// Numbers are given anew.
    started: Option<String>,
}

impl Dial {
    pub(crate) fn new(hosts: Vec<PgConnectOptions>, options: PostgresOptions) -> Result<Dial> {
        if hosts.is_empty() {
            return Err(Error::invalid("there is no host: name one server of Postgres at least"));
        }
        let schema = Schema::new(&options.schema)?;
        Ok(Dial { hosts, at: AtomicUsize::new(0), abandoned: Mutex::default(), options, schema })
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

    /// Which of the hosts the statements go to.
    pub(crate) fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    /// A connection for statements, to the first server that takes writes and has the schema.
    pub(crate) async fn line(&self) -> Result<(PgConnection, Process)> {
        let mut search = self.search();
        for (number, host) in self.hosts.iter().enumerate() {
            match search.within_its_share(self.line_to(host)).await {
                Ok(line) => {
                    self.at.store(number, Ordering::Relaxed);
                    return Ok(line);
                }
                Err(error) => search.refused(host, error),
            }
        }
        Err(search.refusal())
    }

    async fn line_to(&self, host: &PgConnectOptions) -> Result<(PgConnection, Process)> {
        let mut connection = PgConnection::connect_with(host).await.map_err(failed_at_first)?;
        let process = takes_writes(&mut connection).await?;
        sees_what_is_committed(&mut connection).await?;
        self.end_abandoned(&mut connection).await?;
        self.schema.is_there(&mut connection, self.options.migrate).await?;
        Ok((connection, process))
    }

    /// The connection was given up, and perhaps the server goes on: with a statement that waits for a standby's word, say.
    pub(crate) fn abandon(&self, process: Process) {
        let mut abandoned = self.abandoned();
        abandoned.push((process, SystemClock::new().boot()));
        if abandoned.len() > ABANDONED {
            abandoned.remove(0);
        }
    }

    fn abandoned(&self) -> MutexGuard<'_, Vec<(Process, BootTime)>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So that they do not pile up there. Only what has been at work with our schema since then: a pooler may have given the process to
    /// somebody else.
    ///
    /// # Errors
    /// One waits for a standby's word. To end it would show everybody what it has done, and the standby may not have it: so there is no
    /// other connection beside it.
    async fn end_abandoned(&self, connection: &mut PgConnection) -> Result<()> {
        const END: &str = "SELECT CASE wait_event WHEN 'SyncRep' THEN false ELSE pg_terminate_backend(pid) END FROM pg_stat_activity \
                           WHERE pid = $1 AND backend_start::text = $2 AND usename = current_user AND state = 'active' \
                             AND query_start <= clock_timestamp() - $3 * interval '1 microsecond' AND position($4 IN query) > 0";
        // Each stays there until it is known to be at work no more: this may end half-way, and the next one has to ask again.
        let abandoned = self.abandoned().clone();
        let mut waits_for_a_standby = false;
        for (process, since) in abandoned {
            let ago = SystemClock::new().boot().since(since);
            let statement = sqlx::query_scalar(END)
                .bind(process.id)
                .bind(process.started.clone())
                .bind(f64::from(u32::try_from(ago.as_micros()).unwrap_or(u32::MAX)))
                .bind(self.schema.beginning())
                .persistent(false);
            match statement.fetch_optional(&mut *connection).await {
                Ok(Some(false)) => waits_for_a_standby = true,
                Ok(_) => self.abandoned().retain(|other| *other != (process.clone(), since)),
                Err(error) => {
                    tracing::debug!(target: telemetry::TARGET, %error, "a connection that was given up may still be at work");
                }
            }
        }
        if waits_for_a_standby {
            return Err(Error::unavailable(
                "a commit waits for a standby that does not answer: is one of synchronous_standby_names there? Until then no lock is \
                 granted or renewed",
            )
            .effect(Effect::NotApplied));
        }
        Ok(())
    }

    /// A connection for what comes on a channel, to the server that the statements go to, and the number of the host. It does not
    /// reconnect by itself.
    pub(crate) async fn listener(&self, channel: &str) -> Result<(PgListener, usize)> {
        let mut search = self.search();
        let first = self.at();
        let others = (0..self.hosts.len()).filter(|number| *number != first);
        for number in std::iter::once(first).chain(others) {
            let Some(host) = self.hosts.get(number) else { continue };
            let limit = search.share();
            match search.within_its_share(listener_to(host, channel, limit)).await {
                Ok(listener) => return Ok((listener, number)),
                Err(error) => search.refused(host, error),
            }
        }
        Err(search.refusal())
    }

    fn search(&self) -> Search {
        let clock = SystemClock::new();
        Search {
            clock,
            until: clock.boot() + self.options.connect_timeout,
            left: self.hosts.len(),
            refusal: None,
        }
    }
}

impl fmt::Debug for Dial {
    /// Without the driver's options: there is a password in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint())
    }
}

/// One host after the other, until the time is over.
struct Search {
    clock: SystemClock,
    until: BootTime,
    /// How many were not tried yet.
    left: usize,
    refusal: Option<Error>,
}

impl Search {
    /// What one that is silent leaves is for those behind it.
    fn share(&self) -> Duration {
        self.until.since(self.clock.boot()) / u32::try_from(self.left).unwrap_or(u32::MAX).max(1)
    }

    async fn within_its_share<T>(&mut self, connecting: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.share();
        self.left = self.left.saturating_sub(1);
        within(&self.clock, limit, connecting).await.unwrap_or_else(|| {
            Err(Error::unavailable(format!(
                "no answer within {limit:?}; is it up, and can it be reached from here?"
            ))
            .effect(Effect::NotApplied))
        })
    }

    /// One that is there and refuses says more than one that is not, and a primary more than a standby.
    fn refused(&mut self, host: &PgConnectOptions, error: Error) {
        let says_more = self.refusal.as_ref().is_none_or(|before| {
            is_standbys(before) && !is_standbys(&error) || before.is_retryable() && !error.is_retryable()
        });
        if says_more {
            self.refusal = Some(error.at(format!("postgres://{}", place(host))));
        }
    }

    fn refusal(self) -> Error {
        self.refusal.unwrap_or_else(|| Error::unavailable("there is no host"))
    }
}

async fn listener_to(host: &PgConnectOptions, channel: &str, limit: Duration) -> Result<PgListener> {
    // The driver's listener wants a pool to come from.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        // Before whoever waits for it gives up without having heard why.
        .acquire_timeout(limit * 19 / 20)
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

const STANDBY: &str = "the server is a standby, and takes no writes: name the primary, or all of them, as in postgres://a,b/database";

fn is_standbys(refusal: &Error) -> bool {
    refusal.message() == STANDBY
}

/// A standby is of no use.
async fn takes_writes(connection: impl sqlx::PgExecutor<'_>) -> Result<Process> {
    // In one column: where a pooler gives the answer to somebody else's statement, the driver panics at a second one that is missing.
    const LOOK: &str = "SELECT concat_ws(' ', pg_is_in_recovery(), pg_backend_pid(), \
                        (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()))";
    let asked = sqlx::query(LOOK).persistent(false).fetch_one(connection).await;
    let answer: String = asked.and_then(|row| row.try_get(0)).map_err(failed_at_first)?;
    let mut words = answer.splitn(3, ' ');
    let (is_standby, id, started) = (words.next(), words.next(), words.next());
    match (is_standby, id.and_then(|id| id.parse().ok())) {
        (Some("f"), Some(id)) => Ok(Process { id, started: started.map(str::to_owned) }),
        (Some("t"), Some(_)) => Err(Error::unavailable(STANDBY).effect(Effect::NotApplied)),
        _ => Err(failed_at_first(sqlx::Error::RowNotFound)),
    }
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
