//! [`Line`]: the way to the one connection for statements.
//!
//! The driver sends one statement at a time. Whatever claims and releases come while one is under way go together in the next: most of
//! what a statement costs the server is its commit, which costs the same for one and for many. The task that does it is in
//! [`serve`](crate::serve).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use lock_core::{Effect, Error, Result, SystemClock, telemetry};
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::ask::{Answer, Ask};
use crate::dial::Dial;
use crate::serve::serve;

/// The way to a connection. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Line {
    /// Which of the backend's connections, one after the other.
    pub(crate) number: u64,
    requests: mpsc::UnboundedSender<Request>,
    shared: Arc<Shared>,
}

/// What whoever asks has in common with the task.
pub(crate) struct Shared {
    pub(crate) clock: SystemClock,
    /// How often somebody has given up waiting.
    pub(crate) given_up: watch::Sender<u64>,
    /// The connection may have broken.
    pub(crate) doubt: Arc<Notify>,
    /// Claims and releases since the last sweep.
    pub(crate) used: AtomicUsize,
}

pub(crate) enum Request {
    Ask(Ask, Reply<Answer>),
    Query(Query, Reply<Vec<PgRow>>),
}

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Unanswered>>;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: Error,
    pub(crate) fate: Fate,
}

impl Unanswered {
    pub(crate) fn before_it_was_sent(error: Error) -> Unanswered {
        Unanswered { error, fate: Fate::NeverSent }
    }
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// There was no connection.
    Unconnected,
    /// The connection had ended before, which says nothing of the next one.
    NeverSent,
    /// The server has refused it: nothing comes of it later.
    Refused,
    /// The same, as somebody else is at its key's row.
    Locked,
    /// Nobody knows. It may still be on its way.
    Sent,
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
            given_up: watch::Sender::new(0),
            doubt,
            used: AtomicUsize::new(0),
        });
        runtime.spawn(serve(dial.clone(), received, shared.clone()));
        Ok(Line { number, requests, shared })
    }

    /// Whether nothing is taken any more.
    pub(crate) fn is_over(&self) -> bool {
        self.requests.is_closed()
    }

    /// A claim or a release, together with those that others have asked meanwhile. It is in the line when this returns, and not only when
    /// it is awaited. Dropping it may leave it running.
    pub(crate) fn ask(&self, ask: Ask) -> impl Future<Output = Result<Answer, Unanswered>> + Send + '_ {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Request::Ask(ask, reply), answer);
        async move { sent.await? }
    }

    pub(crate) async fn query(&self, query: Query) -> Result<Vec<PgRow>, Unanswered> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Query(query, reply), answer).await?
    }

    fn send<'a, T: Send + 'a>(
        &'a self,
        request: Request,
        answer: oneshot::Receiver<T>,
    ) -> impl Future<Output = Result<T, Unanswered>> + Send + 'a {
        let is_over = self.requests.send(request).is_err();
        let awaited = Awaited { shared: &self.shared, is_over };
        async move {
            if is_over {
                let error = Error::unavailable("the connection has just ended").effect(Effect::NotApplied);
                return Err(Unanswered { error, fate: Fate::NeverSent });
            }
            let answer = answer.await;
            awaited.ends();
            answer.map_err(|_| {
                let error =
                    Error::unavailable("the runtime of its connection has ended").effect(Effect::Unknown);
                Unanswered { error, fate: Fate::Sent }
            })
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

/// A call that has not been answered yet. When its caller gives it up, the connection is suspect.
struct Awaited<'a> {
    shared: &'a Shared,
    is_over: bool,
}

impl Awaited<'_> {
    fn ends(mut self) {
        self.is_over = true;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.given_up.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::str::FromStr;
    use std::sync::OnceLock;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use lock_conformance::servers::Postgres;
    use lock_core::within;
    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::options::PostgresOptions;

    /// Sees the line at the moment at which whoever waits for an answer is woken by it.
    struct Woken {
        line: Line,
        was_over: OnceLock<bool>,
        woken: Notify,
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let _ = self.was_over.set(self.line.is_over());
            self.woken.notify_one();
        }
    }

    /// Else whoever asks again at once would meet the same end again.
    #[tokio::test]
    async fn it_is_over_before_anybody_hears_of_its_end() {
        let server = Postgres::start().await.unwrap();
        let hosts = vec![PgConnectOptions::from_str(&server.url()).unwrap()];
        let dial = Arc::new(Dial::new(hosts, PostgresOptions::new()).unwrap());
        let line = Line::new(0, &dial, Arc::new(Notify::new())).unwrap();
        line.query(query!(dial.schema.look)).await.unwrap();
        assert_eq!(server.disconnect().await.unwrap(), 1);

        let asker = Arc::new(Woken { line: line.clone(), was_over: OnceLock::new(), woken: Notify::new() });
        let waker = Waker::from(asker.clone());
        let mut answer = pin!(line.query(query!(dial.schema.look)));
        assert!(answer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        within(&SystemClock::new(), Duration::from_secs(30), asker.woken.notified()).await.unwrap();
        let Poll::Ready(answer) = answer.poll(&mut Context::from_waker(&waker)) else { panic!("no answer") };
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(asker.was_over.get(), Some(&true));
    }
}
