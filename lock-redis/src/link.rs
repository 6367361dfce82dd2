//! [`Link`]: the one connection, and when it is given up for another.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Shared};
use lock_core::{BootTime, Clock, Error, EventSink, Result, SystemClock, within};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, ServerErrorKind, Value};

use crate::dial::{Dialed, Dialer, Purpose, Signal, Signals, Target};
use crate::ears::{self, Ear, Ears};
use crate::failure::{failed, unexpected};
use crate::options::RedisOptions;
use crate::scripts::{Arguments, LineNumber, Script};
use crate::sentinel::SWITCH;

/// A server that turns out to be a replica is left for another, and so often at most.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Sentinels are asked so seldom whether they are there, in nanoseconds.
const BETWEEN_LOOKS: u64 = 2_000_000_000;

/// How many lines there were in this process.
static LINES: AtomicU64 = AtomicU64::new(0);

/// One connection for everything: commands, and what the server pushes (RESP3). It is made at the first call and made anew
/// when it breaks; each time the scripts are loaded and the channels subscribed before anything else is sent on it.
///
/// Invariant: whoever listens hears of a [`Gap`](lock_core::Event::Gap) for each line that was retired, and every claim that they
/// send because of it goes through a line whose subscription the server has confirmed. So no grant is missed.
pub(crate) struct Link {
    lines: Arc<Lines>,
    clock: SystemClock,
}

/// The line that is used, one after another.
struct Lines {
    dialer: Dialer,
    ears: Arc<Ears>,
    current: Mutex<Arc<Line>>,
}

/// One connection, or the way to it. All who wait for it share one dialing: it goes on where it was when a call that waited for
/// it is given up, for a connection may take longer than any one call.
struct Line {
    number: LineNumber,
    made: BootTime,
    /// When the sentinels were last asked whether they are there.
    made_sure_at: AtomicU64,
    dialed: Shared<Pin<Box<dyn Future<Output = Result<Dialed>> + Send>>>,
    /// Somebody has begun to dial.
    begun: AtomicBool,
    retired: AtomicBool,
    /// How many calls have not been answered.
    under_way: Arc<AtomicUsize>,
    /// When the latest call was sent that was answered. Answers come in order: whatever was sent before was answered, too, though
    /// nobody may have been there to see it. In nanoseconds of the boot clock, as is the other.
    answered_up_to: AtomicU64,
    /// When the first call was sent since then that was given up.
    silent_since: AtomicU64,
}

impl Link {
    pub(crate) fn new(target: Target, purpose: Purpose, options: RedisOptions) -> Link {
        let ears: Arc<Ears> = Arc::default();
        let dialer = Dialer::new(target, purpose, options, ears.clone());
        let lines = Arc::new_cyclic(|lines| Lines {
            current: Mutex::new(Line::new(dialer.clone(), lines.clone())),
            dialer,
            ears,
        });
        Link { lines, clock: SystemClock::new() }
    }

    /// Connects, unless it is connected.
    pub(crate) async fn connect(&self) -> Result<()> {
        // What is there is not copied: in a cluster this is asked before every call of a session.
        if self.lines.current().is_dialed() {
            return Ok(());
        }
        self.connected().await.map(|_| ())
    }

    /// Where it leads, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        self.lines.dialer.endpoint()
    }

    /// One command. Dropping it may leave it running.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Value> {
        let (line, mut connection) = self.connected().await?;
        self.send(&line, &mut connection, command).await.map_err(|error| self.explained(error))
    }

    /// One command to a node of a cluster that is about to have the command's slot, and so only takes what it is asked to.
    pub(crate) async fn call_asking(&self, command: &Cmd) -> Result<Value> {
        let (line, mut connection) = self.connected().await?;
        let mut asking = redis::pipe();
        asking.cmd("ASKING").add_command(command.clone());
        let answers = self.answer(&line, connection.send_packed_commands(&asking, 1, 1)).await;
        let answer = answers.map(|mut answers| answers.pop().unwrap_or(Value::Nil));
        answer.and_then(Value::extract_error).map_err(|error| self.explained(error))
    }

    /// One script: by its hash, and by its text if the server has forgotten it.
    pub(crate) async fn run(&self, script: &Script, arguments: &Arguments<'_>) -> Result<Value> {
        let (line, mut connection) = self.connected().await?;
        let with_arguments = |command: &mut Cmd| arguments(command, line.number);
        let answer = match self.send(&line, &mut connection, &script.by_hash(with_arguments)).await {
            Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                self.send(&line, &mut connection, &script.by_code(with_arguments)).await
            }
            answer => answer,
        };
        answer.map_err(|error| self.explained(error))
    }

    /// Listens on a channel, and returns once the server sends what comes there.
    pub(crate) async fn listen(&self, channel: &str, sink: EventSink) -> Result<Ear> {
        let ear = self.lines.ears.listen(channel.to_owned(), sink);
        let (line, mut connection) = self.connected().await?;
        let answer = self.send(&line, &mut connection, &ears::subscription(channel)).await;
        let answer = answer.map_err(|error| self.explained(error))?;
        if !ears::confirms(&answer, channel) {
            self.lines.retire(&line);
            return Err(unexpected("a subscription", &answer).retryable(true));
        }
        Ok(ear)
    }

    /// Tells the server that nobody listens on a channel any more. A connection that is made anew does not know it.
    pub(crate) async fn leave(&self, channel: &str) -> Result<()> {
        let mut command = Cmd::new();
        command.arg("SUNSUBSCRIBE").arg(channel);
        self.call(&command).await.map(|_| ())
    }

    /// Whether any of the sentinels would still tell of another primary; if not, they are asked anew. Now and then.
    pub(crate) async fn make_sure_of_watch(&self, limit: Duration) {
        let line = self.lines.current();
        let Some(Ok(dialed)) = line.dialed.peek().cloned() else { return };
        let (now, last) = (self.clock.boot().as_nanos(), line.made_sure_at.load(Ordering::Relaxed));
        if dialed.watch.is_empty() || now < last.max(line.made.as_nanos()) + BETWEEN_LOOKS {
            return;
        }
        line.made_sure_at.store(now, Ordering::Relaxed);
        let asked = dialed.watch.iter().map(|sentinel| {
            let mut sentinel = sentinel.clone();
            Box::pin(async move { sentinel.subscribe(SWITCH).await })
        });
        if !matches!(within(&SystemClock::new(), limit, future::select_ok(asked)).await, Some(Ok(_))) {
            self.lines.retire(&line);
        }
    }

    /// Another connection is made for the next call.
    pub(crate) fn give_up(&self) {
        self.lines.retire(&self.lines.current());
    }

    fn explained(&self, error: RedisError) -> Error {
        let is_of_a_replica = error.kind() == ServerErrorKind::ReadOnly.into();
        let passes = is_of_a_replica && self.lines.dialer.may_lead_elsewhere();
        let error = failed(error);
        if passes { error.retryable(true) } else { error }
    }

    async fn send(
        &self,
        line: &Arc<Line>,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
    ) -> Result<Value, RedisError> {
        self.answer(line, connection.send_packed_command(command)).await.and_then(Value::extract_error)
    }

    /// Awaits the answer to a call, and draws the conclusions about its line: from an error, or from silence.
    async fn answer<T>(
        &self,
        line: &Arc<Line>,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let unanswered = Unanswered::new(self, line);
        let answer = call.await;
        unanswered.answered(&answer);
        if line.retired.load(Ordering::SeqCst) && self.lines.dialer.may_lead_elsewhere() {
            // Another server may be the primary by now, and have granted to somebody else what this one grants.
            return Err((redis::ErrorKind::Io, "the answer of a server that was given up").into());
        }
        answer
    }

    async fn connected(&self) -> Result<(Arc<Line>, MultiplexedConnection)> {
        loop {
            let line = self.lines.current();
            let (dialed, was_begun) = match line.dialed.peek() {
                Some(dialed) => (dialed.clone(), true),
                None => {
                    let was_begun = line.begun.swap(true, Ordering::SeqCst);
                    (line.dialed.clone().await, was_begun)
                }
            };
            match dialed {
                Ok(dialed) if dialed.ask_again_at.is_some_and(|at| self.clock.boot() >= at) => {
                    self.lines.retire(&line);
                }
                // Another server has become the primary while this was dialed.
                Ok(_) if line.retired.load(Ordering::SeqCst) => {}
                Ok(dialed) => return Ok((line, dialed.connection)),
                Err(error) => {
                    // Nothing was sent on it, so nobody can have missed anything by it: the next call tries anew. So does this
                    // one, if another had begun: that may be long ago, and nobody have looked at it since.
                    self.lines.replace(&line);
                    if !was_begun {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.endpoint())
    }
}

impl Lines {
    fn current(&self) -> Arc<Line> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a line up, once: the next call dials anew, calls that are under way on the old one may still be answered.
    fn retire(self: &Arc<Lines>, line: &Arc<Line>) {
        if self.replace(line) {
            self.ears.gap();
        }
    }

    /// Puts a line that is still to be dialed in the place of this one; false if that was done before.
    fn replace(self: &Arc<Lines>, line: &Arc<Line>) -> bool {
        if line.retired.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, line) {
            *current = Line::new(self.dialer.clone(), Arc::downgrade(self));
        }
        true
    }
}

impl Line {
    /// Nothing is dialed before somebody waits for it.
    fn new(dialer: Dialer, lines: Weak<Lines>) -> Arc<Line> {
        Arc::new_cyclic(|this: &Weak<Line>| {
            let this = this.clone();
            let signals: Signals = Arc::new(move |signal| {
                let (Some(lines), Some(line)) = (lines.upgrade(), this.upgrade()) else { return };
                match signal {
                    Signal::Ended => lines.retire(&line),
                    Signal::Push(push) => lines.ears.hear(&push),
                }
            });
            // All share it, so that all would share a panic: of the runtime, if that ends meanwhile.
            let under_way: Arc<AtomicUsize> = Arc::default();
            let dialing =
                AssertUnwindSafe(dialer.dial(signals, under_way.clone())).catch_unwind().map(|dialed| {
                    dialed.unwrap_or_else(|_| {
                        Err(Error::unavailable("the connection was being made when its runtime ended"))
                    })
                });
            let dialing: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(dialing);
            Line {
                number: LineNumber(LINES.fetch_add(1, Ordering::Relaxed)),
                made: SystemClock::new().boot(),
                made_sure_at: AtomicU64::new(0),
                dialed: dialing.shared(),
                begun: AtomicBool::new(false),
                retired: AtomicBool::new(false),
                under_way,
                answered_up_to: AtomicU64::new(0),
                silent_since: AtomicU64::new(0),
            }
        })
    }

    fn is_dialed(&self) -> bool {
        matches!(self.dialed.peek(), Some(Ok(_)))
    }

    /// Of a line that was used, and so is dialed.
    fn patience(&self) -> Duration {
        self.dialed.peek().and_then(|dialed| Some(dialed.as_ref().ok()?.patience)).unwrap_or_default()
    }

    /// Whether nobody may be there any more, now that a call is given up that was sent at this instant. One that was hardly
    /// waited for says nothing.
    fn is_suspect(&self, sent: u64, now: u64) -> bool {
        let patience = u64::try_from(self.patience().as_nanos()).unwrap_or(u64::MAX);
        let answered = self.answered_up_to.load(Ordering::Relaxed);
        if sent <= answered || now.saturating_sub(sent) < patience / 4 {
            return false;
        }
        let before = self.silent_since.load(Ordering::Relaxed);
        let since = if before > answered { before.min(sent) } else { sent };
        self.silent_since.store(since, Ordering::Relaxed);
        now.saturating_sub(since) >= patience
    }
}

/// A call that has not been answered yet. When its caller gives it up, its line is suspect: behind a black hole everything else
/// that is sent on it would be lost as well.
struct Unanswered<'a> {
    link: &'a Link,
    line: &'a Arc<Line>,
    sent: BootTime,
    answered: bool,
}

impl<'a> Unanswered<'a> {
    fn new(link: &'a Link, line: &'a Arc<Line>) -> Unanswered<'a> {
        line.under_way.fetch_add(1, Ordering::Relaxed);
        Unanswered { link, line, sent: link.clock.boot(), answered: false }
    }

    fn answered<T>(mut self, answer: &Result<T, RedisError>) {
        self.answered = true;
        // A replica: another server is the primary now, and the next line may lead there. Not as often as anybody asks.
        let is_tried = self.link.clock.boot().since(self.line.made) >= BETWEEN_TRIES;
        let leads_astray = |error: &RedisError| {
            error.is_unrecoverable_error() || is_tried && error.kind() == ServerErrorKind::ReadOnly.into()
        };
        if answer.as_ref().is_err_and(leads_astray) {
            self.link.lines.retire(self.line);
        } else {
            self.line.answered_up_to.fetch_max(self.sent.as_nanos(), Ordering::Relaxed);
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.line.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.answered && self.line.is_suspect(self.sent.as_nanos(), self.link.clock.boot().as_nanos()) {
            self.link.lines.retire(self.line);
        }
    }
}
