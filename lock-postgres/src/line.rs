//! [`Line`]: the one connection for statements, and the task that has it.
//!
//! The driver sends one statement at a time. Whatever claims and releases come while one is under way go together in the next: most of
//! what a statement costs the server is its commit, which costs the same for one and for many.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_core::{BootTime, Clock, Effect, Error, Result, SystemClock, telemetry, within};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::ask::{Answer, Ask};
use crate::dial::Dial;
use crate::failure::{ends_the_connection, failed, unexpected};
use crate::sweep::Sweep;

/// How many claims and releases go together: their keys are locked until the commit.
const TOGETHER: usize = 128;

/// A connection on which a call was given up that had been on its way for so long may be dead without a word.
const PATIENCE: Duration = Duration::from_millis(300);

/// A connection that was not used for so long is looked at before it is.
const IDLE: Duration = Duration::from_secs(1);

/// How long it may take to say that it is there.
const PONG: Duration = Duration::from_secs(2);

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The way to a connection. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Line {
    /// Which of the backend's connections, one after the other.
    pub(crate) number: u64,
    requests: mpsc::UnboundedSender<Request>,
    shared: Arc<Shared>,
}

struct Shared {
    clock: SystemClock,
    /// Somebody has given up waiting.
    suspect: Notify,
    /// The connection may have broken.
    doubt: Arc<Notify>,
    /// Claims and releases since the last sweep.
    used: AtomicUsize,
}

enum Request {
    Ask(Ask, oneshot::Sender<Result<Answer>>),
    Query(Query, oneshot::Sender<Result<Vec<PgRow>>>),
}

/// A statement by itself.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) text: Arc<str>,
    pub(crate) arguments: PgArguments,
}

/// A statement of the schema, with what it takes.
macro_rules! query {
    ($text:expr $(, $argument:expr)*) => {
        $crate::line::Query { text: $text.clone(), arguments: $crate::line::arguments(|_arguments| {
            $(::sqlx::Arguments::add(_arguments, $argument)?;)*
            Ok(())
        }) }
    };
}
pub(crate) use query;

/// One that cannot be encoded is the server's to refuse, for it is missing.
pub(crate) fn arguments(
    add: impl FnOnce(&mut PgArguments) -> Result<(), sqlx::error::BoxDynError>,
) -> PgArguments {
    let mut arguments = PgArguments::default();
    if let Err(error) = add(&mut arguments) {
        tracing::error!(target: telemetry::TARGET, %error, "an argument cannot be encoded");
    }
    arguments
}

/// The sessions that a statement has named.
pub(crate) fn sessions(rows: &[PgRow]) -> Vec<Vec<u8>> {
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}

impl Line {
    /// Connects at once, in a task of its own.
    ///
    /// # Errors
    /// Outside a Tokio runtime.
    pub(crate) fn new(number: u64, dial: &Arc<Dial>, doubt: Arc<Notify>) -> Result<Line> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::unavailable("locks in Postgres need a Tokio runtime").caused_by(error))?;
        let (requests, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            clock: SystemClock::new(),
            suspect: Notify::new(),
            doubt,
            used: AtomicUsize::new(0),
        });
        runtime.spawn(serve(dial.clone(), received, shared.clone()));
        Ok(Line { number, requests, shared })
    }

    /// Whether its task has ended, and nothing is taken any more.
    pub(crate) fn is_over(&self) -> bool {
        self.requests.is_closed()
    }

    /// A claim or a release, together with those that others have asked meanwhile. Dropping it may leave it running.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Ask(ask, reply), answer).await
    }

    pub(crate) async fn query(&self, query: Query) -> Result<Vec<PgRow>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Query(query, reply), answer).await
    }

    async fn send<T>(&self, request: Request, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        if self.requests.send(request).is_err() {
            return Err(never_sent());
        }
        let mut unanswered =
            Unanswered { shared: &self.shared, sent: self.shared.clock.boot(), is_answered: false };
        let answer = answer.await;
        unanswered.is_answered = true;
        answer.unwrap_or_else(|_| {
            Err(Error::unavailable("the runtime of its connection has ended").effect(Effect::Unknown))
        })
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

/// A call that has not been answered yet. When its caller gives it up, the connection is suspect.
struct Unanswered<'a> {
    shared: &'a Shared,
    sent: BootTime,
    is_answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.shared.clock.boot().since(self.sent) >= PATIENCE {
            self.shared.suspect.notify_one();
        }
    }
}

/// Has the connection until it breaks, or nobody has the line any more.
async fn serve(dial: Arc<Dial>, mut requests: mpsc::UnboundedReceiver<Request>, shared: Arc<Shared>) {
    let end = match dial.line().await {
        Ok(connection) => {
            let sweep = Sweep::new(dial.idle_after());
            let mut served = Served {
                connection,
                used_at: shared.clock.boot(),
                dial,
                shared,
                sweep,
                waiting: Waiting::default(),
            };
            let end = served.run(&mut requests).await.err();
            let Served { connection, mut waiting, .. } = served;
            match &end {
                Some(error) => waiting.fail(error),
                None => drop(within(&SystemClock::new(), GOODBYE, connection.close()).await),
            }
            end
        }
        Err(error) => Some(error),
    };
    // In this order: nobody's request stays behind.
    requests.close();
    if let Some(error) = end {
        let error = error.effect(Effect::NotApplied);
        while let Ok(request) = requests.try_recv() {
            request.fail(&error);
        }
    }
}

struct Served {
    connection: PgConnection,
    used_at: BootTime,
    dial: Arc<Dial>,
    shared: Arc<Shared>,
    sweep: Sweep,
    waiting: Waiting,
}

/// What has come and was not sent yet.
#[derive(Default)]
struct Waiting {
    queries: VecDeque<(Query, oneshot::Sender<Result<Vec<PgRow>>>)>,
    asks: VecDeque<(Ask, oneshot::Sender<Result<Answer>>)>,
}

impl Served {
    /// Returns when nobody needs the connection any more.
    ///
    /// # Errors
    /// Why it is of no more use.
    async fn run(&mut self, requests: &mut mpsc::UnboundedReceiver<Request>) -> Result<()> {
        let clock = self.shared.clock;
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    request = requests.recv() => match request {
                        Some(request) => self.waiting.take(request),
                        None => return Ok(()),
                    },
                    // The other connection has broken: so may have this one.
                    () = self.shared.doubt.notified() => self.is_alive().await?,
                    // Where there is nothing else to do.
                    () = clock.wake_at(self.sweep.due()) => {}
                }
                // It may have broken long ago, and nobody would know what becomes of what is sent there.
                if clock.boot().since(self.used_at) >= IDLE {
                    self.is_alive().await?;
                }
            }
            while let Ok(request) = requests.try_recv() {
                self.waiting.take(request);
            }
            // A renewal waits for nobody's claims.
            while let Some((query, reply)) = self.waiting.queries.pop_front() {
                self.answer(query, reply).await?;
            }
            self.answer_together().await?;
            if clock.boot() >= self.sweep.due() {
                self.sweep().await?;
            }
        }
    }

    /// # Errors
    /// It is not: nothing was asked there.
    async fn is_alive(&mut self) -> Result<()> {
        let pong = within(&SystemClock::new(), PONG, self.connection.ping()).await;
        self.used_at = self.shared.clock.boot();
        match pong {
            Some(pong) => pong.map_err(|error| failed(error).effect(Effect::NotApplied)),
            None => Err(Error::unavailable("the connection is silent").effect(Effect::NotApplied)),
        }
    }

    /// # Errors
    /// When the connection is of no more use. What becomes of the call is the caller's to hear.
    async fn answer(&mut self, query: Query, reply: oneshot::Sender<Result<Vec<PgRow>>>) -> Result<()> {
        if reply.is_closed() {
            return Ok(());
        }
        let (answer, end) = self.send(query).await;
        let _ = reply.send(answer);
        end.map_or(Ok(()), Err)
    }

    async fn answer_together(&mut self) -> Result<()> {
        let count = self.waiting.asks.len().min(TOGETHER);
        let mut asked: Vec<_> = self.waiting.asks.drain(..count).collect();
        asked.retain(|(_, reply)| !reply.is_closed());
        if asked.is_empty() {
            return Ok(());
        }
        self.shared.used.fetch_add(asked.len(), Ordering::Relaxed);
        let asks: Vec<&Ask> = asked.iter().map(|(ask, _)| ask).collect();
        let arguments = match Ask::arguments(&asks) {
            Ok(arguments) => arguments,
            Err(error) => {
                let error = failed(sqlx::Error::Encode(error)).effect(Effect::NotApplied);
                asked.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
                return Ok(());
            }
        };
        let text = self.dial.schema.apply.clone();
        let (rows, end) = self.send(Query { text, arguments }).await;
        let mut replies: Vec<_> = asked.into_iter().map(|(_, reply)| Some(reply)).collect();
        match rows {
            Ok(rows) => {
                for row in &rows {
                    match Answer::read(row) {
                        Ok((place, answer)) => {
                            if let Some(reply) = replies.get_mut(place).and_then(Option::take) {
                                let _ = reply.send(Ok(answer));
                            }
                        }
                        Err(error) => fail_all(&mut replies, &error),
                    }
                }
                fail_all(&mut replies, &unexpected("claims and releases"));
            }
            Err(error) => fail_all(&mut replies, &error),
        }
        end.map_or(Ok(()), Err)
    }

    async fn sweep(&mut self) -> Result<()> {
        let used = self.shared.used.swap(0, Ordering::Relaxed);
        let look = self.sweep.look(&self.dial, used);
        let looked = self.goes_on(look).await?;
        let to_settle = self.sweep.looked(&looked);
        if to_settle.is_empty() {
            return Ok(());
        }
        let settled = self.goes_on(query!(self.dial.schema.settle, to_settle)).await?;
        let expired = sessions(&settled);
        if !expired.is_empty() {
            // What they hold goes the next time.
            self.goes_on(query!(self.dial.schema.end_sessions, expired)).await?;
        }
        Ok(())
    }

    /// A statement for nobody: what is not done is done the next time.
    async fn goes_on(&mut self, query: Query) -> Result<Vec<PgRow>> {
        let (answer, end) = self.send(query).await;
        if let Some(error) = end {
            return Err(error);
        }
        Ok(answer.unwrap_or_else(|error| {
            tracing::debug!(target: telemetry::TARGET, %error, "idle keys stay for now");
            Vec::new()
        }))
    }

    /// What came of a statement, and why the connection is of no more use behind it.
    async fn send(&mut self, query: Query) -> (Result<Vec<PgRow>>, Option<Error>) {
        let Query { text, arguments } = query;
        let sent = self.shared.clock.boot();
        let shared = self.shared.clone();
        let answer = tokio::select! {
            biased;
            answer = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut self.connection) => answer,
            () = hangs(&shared, sent) => {
                let error = Error::unavailable("the connection was given up, as no answer came on it").effect(Effect::Unknown);
                return (Err(error.clone()), Some(error));
            }
        };
        self.used_at = self.shared.clock.boot();
        match answer {
            Ok(rows) => (Ok(rows), None),
            Err(error) => {
                let ends = ends_the_connection(&error);
                let error = failed(error);
                (Err(error.clone()), ends.then_some(error))
            }
        }
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.queries.is_empty() && self.asks.is_empty()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Ask(ask, reply) => self.asks.push_back((ask, reply)),
            Request::Query(query, reply) => self.queries.push_back((query, reply)),
        }
    }

    /// None of them was sent.
    fn fail(&mut self, error: &Error) {
        let error = error.clone().effect(Effect::NotApplied);
        self.queries.drain(..).for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
        self.asks.drain(..).for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
    }
}

impl Request {
    fn fail(self, error: &Error) {
        match self {
            Request::Ask(_, reply) => drop(reply.send(Err(error.clone()))),
            Request::Query(_, reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// Returns when somebody has given up waiting while this statement had been under way for long.
async fn hangs(shared: &Shared, sent: BootTime) {
    loop {
        shared.suspect.notified().await;
        if shared.clock.boot().since(sent) >= PATIENCE {
            return;
        }
    }
}

fn fail_all(replies: &mut [Option<oneshot::Sender<Result<Answer>>>], error: &Error) {
    for reply in replies.iter_mut().filter_map(Option::take) {
        let _ = reply.send(Err(error.clone()));
    }
}

/// The line was over before it came.
pub(crate) fn never_sent() -> Error {
    Error::unavailable("the connection has just ended").effect(Effect::NotApplied)
}
