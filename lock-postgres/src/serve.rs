//! [`serve`]: the task that has the connection for statements.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lock_core::{BootTime, Clock, Effect, Error, Result, SystemClock, telemetry, within};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::mpsc;

use crate::ask::{Answer, Ask};
use crate::dial::{Dial, Process};
use crate::failure::{Trouble, ends_the_connection, failed, trouble, unexpected};
use crate::line::{Fate, Query, Reply, Request, Shared, Unanswered, query, sessions};
use crate::sweep::Sweep;

/// How many claims and releases go together: their keys are locked until the commit.
const TOGETHER: usize = 128;

/// A connection on which a statement has been under way for so long may be dead without a word, once somebody has given up waiting.
const PATIENCE: Duration = Duration::from_millis(300);

/// A connection that was not used for so long is looked at before it is.
const IDLE: Duration = Duration::from_secs(1);

/// How long it may take to say that it is there.
const PONG: Duration = Duration::from_secs(2);

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Has the connection until it breaks, or nobody has the line any more.
pub(crate) async fn serve(
    dial: Arc<Dial>,
    mut requests: mpsc::UnboundedReceiver<Request>,
    shared: Arc<Shared>,
) {
    match dial.line().await {
        Ok((connection, process)) => {
            let sweep = Sweep::new(dial.idle_after());
            let mut served = Served {
                requests,
                connection,
                process: Some(process),
                used_at: shared.clock.boot(),
                dial,
                shared,
                sweep,
                waiting: Waiting::default(),
            };
            match served.run().await {
                Ok(()) => drop(within(&SystemClock::new(), GOODBYE, served.connection.close()).await),
                Err(error) => {
                    served.close();
                    served.waiting.fail_with_what_came(&error, Fate::NeverSent, &mut served.requests).await;
                }
            }
        }
        Err(error) => {
            requests.close();
            Waiting::default().fail_with_what_came(&error, Fate::Unconnected, &mut requests).await;
        }
    }
}

struct Served {
    requests: mpsc::UnboundedReceiver<Request>,
    connection: PgConnection,
    /// Until it is over.
    process: Option<Process>,
    used_at: BootTime,
    dial: Arc<Dial>,
    shared: Arc<Shared>,
    sweep: Sweep,
    waiting: Waiting,
}

/// What has come and was not sent yet.
#[derive(Default)]
struct Waiting {
    queries: VecDeque<(Query, Reply<Vec<PgRow>>)>,
    asks: VecDeque<Asked>,
    /// Those that were refused together. Each is sent by itself, for it may be another one's fault.
    alone: VecDeque<Asked>,
}

struct Asked {
    ask: Ask,
    reply: Reply<Answer>,
}

impl Served {
    /// Returns when nobody needs the connection any more.
    ///
    /// # Errors
    /// Why it is of no more use.
    async fn run(&mut self) -> Result<()> {
        let clock = self.shared.clock;
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    request = self.requests.recv() => match request {
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
            while let Ok(request) = self.requests.try_recv() {
                self.waiting.take(request);
            }
            // A renewal waits for nobody's claims.
            while let Some((query, reply)) = self.waiting.queries.pop_front() {
                self.answer(query, reply).await?;
            }
            self.answer_asks().await?;
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
    async fn answer(&mut self, query: Query, reply: Reply<Vec<PgRow>>) -> Result<()> {
        if reply.is_closed() {
            return Ok(());
        }
        match self.send(query).await {
            Ok(rows) => drop(reply.send(Ok(rows))),
            Err(failure) => {
                let _ = reply.send(Err(Unanswered { error: failure.error.clone(), fate: failure.fate }));
                failure.end()?;
            }
        }
        Ok(())
    }

    /// The next claims and releases.
    async fn answer_asks(&mut self) -> Result<()> {
        let mut asked: Vec<_> = match self.waiting.alone.pop_front() {
            Some(alone) => vec![alone],
            None => {
                let count = self.waiting.asks.len().min(TOGETHER);
                self.waiting.asks.drain(..count).collect()
            }
        };
        asked.retain(|asked| !asked.reply.is_closed());
        if asked.is_empty() {
            return Ok(());
        }
        let (schema, count) = (&self.dial.schema, asked.len());
        let (text, arguments) = match asked.as_slice() {
            [one] => (schema.apply_one.clone(), one.ask.argument()),
            several => {
                let asks: Vec<&Ask> = several.iter().map(|asked| &asked.ask).collect();
                (schema.apply.clone(), Ask::arguments(&asks))
            }
        };
        let arguments = match arguments {
            Ok(arguments) => arguments,
            Err(error) => {
                let error = failed(sqlx::Error::Encode(error)).effect(Effect::NotApplied);
                asked.into_iter().for_each(|asked| asked.fail(&error, Fate::NeverSent));
                return Ok(());
            }
        };
        self.shared.used.fetch_add(count, Ordering::Relaxed);
        let failure = match self.send(Query { text, arguments }).await {
            Ok(rows) => {
                answer_all(asked, &rows);
                return Ok(());
            }
            Err(failure) => failure,
        };
        match (failure.fate, failure.is_one_asks) {
            (Fate::Refused, true) if count > 1 => self.waiting.alone.extend(asked),
            (Fate::Refused, true) if failure.is_locked => {
                for asked in asked {
                    self.waiting.refuse_alike(asked.ask.key(), &failure.error);
                    asked.fail(&failure.error, Fate::Locked);
                }
            }
            (fate, _) => asked.into_iter().for_each(|asked| asked.fail(&failure.error, fate)),
        }
        failure.end()
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
        match self.send(query).await {
            Ok(rows) => Ok(rows),
            Err(failure) => {
                tracing::debug!(target: telemetry::TARGET, error = %failure.error, "idle keys stay for now");
                failure.end().map(|()| Vec::new())
            }
        }
    }

    async fn send(&mut self, query: Query) -> Result<Vec<PgRow>, Failure> {
        let Query { text, arguments } = query;
        let shared = self.shared.clone();
        let answer = tokio::select! {
            biased;
            answer = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut self.connection) =>
                answer.map_err(Failure::of),
            () = hangs(&shared) => Err(Failure::given_up()),
        };
        self.used_at = self.shared.clock.boot();
        if answer.as_ref().is_err_and(|failure| failure.ends) {
            self.close();
        }
        answer
    }

    /// Invariant: this comes before anybody hears of the end. Whoever asks again at once must not come to this line, and the line after
    /// it must know what the server may still do for this one.
    fn close(&mut self) {
        if let Some(process) = self.process.take() {
            self.dial.abandon(process);
        }
        self.requests.close();
    }
}

/// Why a statement has no answer.
struct Failure {
    error: Error,
    fate: Fate,
    /// The connection is of no more use behind it.
    ends: bool,
    /// Somebody else is at a row that it wants.
    is_locked: bool,
    /// It is about one of those that were asked, and not about all.
    is_one_asks: bool,
}

impl Failure {
    fn of(error: sqlx::Error) -> Failure {
        let trouble = trouble(&error);
        let ends = ends_the_connection(&error);
        let fate = match (ends, trouble) {
            (_, Trouble::Unheard) => Fate::NeverSent,
            (true, _) => Fate::Sent,
            (false, _) => Fate::Refused,
        };
        Failure {
            error: failed(error),
            fate,
            ends,
            is_locked: trouble == Trouble::Locked,
            is_one_asks: matches!(trouble, Trouble::Ones | Trouble::Locked),
        }
    }

    fn given_up() -> Failure {
        let error = Error::unavailable("the connection was given up, as no answer came on it");
        Failure {
            error: error.effect(Effect::Unknown),
            fate: Fate::Sent,
            ends: true,
            is_locked: false,
            is_one_asks: false,
        }
    }

    /// # Errors
    /// Where the connection is of no more use behind it.
    fn end(self) -> Result<()> {
        if self.ends { Err(self.error) } else { Ok(()) }
    }
}

impl Asked {
    fn fail(self, error: &Error, fate: Fate) {
        let _ = self.reply.send(Err(Unanswered { error: error.clone(), fate }));
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.queries.is_empty() && self.asks.is_empty() && self.alone.is_empty()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Ask(ask, reply) => self.asks.push_back(Asked { ask, reply }),
            Request::Query(query, reply) => self.queries.push_back((query, reply)),
        }
    }

    /// What was refused together with one that found its row locked, and wants the same one.
    fn refuse_alike(&mut self, key: &[u8], error: &Error) {
        let (alike, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.alone).into_iter().partition(|asked| asked.ask.key() == key);
        self.alone = others;
        alike.into_iter().for_each(|asked| asked.fail(error, Fate::Locked));
    }

    /// The line is closed, and nobody's request stays behind: whoever was about to send one when it was is waited for, which
    /// `try_recv` does not. None of them was sent to the server, or was refused.
    async fn fail_with_what_came(
        &mut self,
        error: &Error,
        fate: Fate,
        requests: &mut mpsc::UnboundedReceiver<Request>,
    ) {
        while let Some(request) = requests.recv().await {
            self.take(request);
        }
        let error = error.clone().effect(Effect::NotApplied);
        let unanswered = || Unanswered { error: error.clone(), fate };
        self.queries.drain(..).for_each(|(_, reply)| drop(reply.send(Err(unanswered()))));
        self.asks.drain(..).for_each(|asked| asked.fail(&error, fate));
        self.alone.drain(..).for_each(|asked| asked.fail(&error, fate));
    }
}

/// Each hears what became of it.
fn answer_all(asked: Vec<Asked>, rows: &[PgRow]) {
    let mut asked: Vec<_> = asked.into_iter().map(Some).collect();
    let mut error = unexpected("claims and releases");
    for row in rows {
        match Answer::read(row) {
            Ok((place, answer)) => {
                if let Some(asked) = asked.get_mut(place).and_then(Option::take) {
                    let _ = asked.reply.send(Ok(answer));
                }
            }
            Err(damage) => error = damage,
        }
    }
    asked.into_iter().flatten().for_each(|asked| asked.fail(&error, Fate::Sent));
}

/// Returns when a statement has been under way for long, and somebody has given up waiting meanwhile.
async fn hangs(shared: &Shared) {
    let sent = shared.clock.boot();
    let mut given_up = shared.given_up.subscribe();
    // The sender lives as long as what is shared.
    let _ = given_up.changed().await;
    shared.clock.wake_at(sent + PATIENCE).await;
}
