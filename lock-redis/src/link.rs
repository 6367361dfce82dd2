//! [`Link`]: the one connection, and how it is made anew.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use lock_core::{BootTime, Clock, Error, ErrorKind, EventSink, ExposeSecret, Result, SystemClock};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ProtocolVersion, PushKind,
    RedisError, ServerErrorKind, Value,
};
use tokio::sync::OnceCell;

use crate::ears::{Ear, Ears};
use crate::failure::{failed, unreachable};
use crate::options::RedisOptions;
use crate::scripts::{self, Script};

/// A call that was given up after this time says something about its connection: it may be dead without a word.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many calls may be on their way into the driver: a renewal must not queue behind a burst of claims.
const BUFFER: usize = 1024;

/// One connection for everything: commands, and what the server pushes (RESP3). It is made at the first call and made anew
/// when it breaks; each time the scripts are loaded and the channels subscribed before anything else is sent on it.
///
/// Invariant: whoever listens hears of a [`Gap`](lock_core::Event::Gap) for each line that was retired, and every claim that they
/// send because of it goes through a line whose subscription the server has confirmed. So no grant is missed.
pub(crate) struct Link {
    info: ConnectionInfo,
    options: RedisOptions,
    ears: Arc<Ears>,
    clock: SystemClock,
    line: Arc<Mutex<Arc<Line>>>,
}

/// One connection, or the place for it.
#[derive(Default)]
struct Line {
    connection: OnceCell<MultiplexedConnection>,
    retired: AtomicBool,
}

impl Link {
    pub(crate) fn new(info: &ConnectionInfo, options: RedisOptions) -> Link {
        // Small commands, each awaited: without it they wait for the acknowledgement of the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Link {
            info: info.clone().set_tcp_settings(tcp).set_redis_settings(redis),
            options,
            ears: Arc::default(),
            clock: SystemClock::new(),
            line: Arc::default(),
        }
    }

    /// Connects, unless it is connected.
    pub(crate) async fn connect(&self) -> Result<()> {
        self.connected().await.map(|_| ())
    }

    /// Where it leads, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        let address = match self.info.addr() {
            ConnectionAddr::Unix(path) => format!("redis+unix://{}", path.display()),
            address => format!("redis://{address}"),
        };
        match self.info.redis_settings().db() {
            0 => address,
            db => format!("{address} (database {db})"),
        }
    }

    /// One command. Dropping it may leave it running.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Value> {
        let (line, mut connection) = self.connected().await?;
        self.send(&line, &mut connection, command).await.map_err(failed)
    }

    /// One script: by its hash, and by its text if the server has forgotten it.
    pub(crate) async fn run(&self, script: &Script, arguments: impl Fn(&mut Cmd)) -> Result<Value> {
        let (line, mut connection) = self.connected().await?;
        match self.send(&line, &mut connection, &script.by_hash(&arguments)).await {
            Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                self.send(&line, &mut connection, &script.by_code(&arguments)).await.map_err(failed)
            }
            answer => answer.map_err(failed),
        }
    }

    /// Listens on a channel, and returns once the server sends what comes there.
    pub(crate) async fn listen(&self, channel: String, sink: EventSink) -> Result<Ear> {
        let ear = self.ears.listen(channel.clone(), sink);
        let (line, mut connection) = self.connected().await?;
        let stale = self.ears.take_stale();
        let unanswered = Unanswered::new(self, &line);
        if !stale.is_empty() {
            connection.unsubscribe(stale).await.map_err(failed)?;
        }
        let subscribed = connection.subscribe(channel).await;
        unanswered.answered(&subscribed);
        subscribed.map_err(failed)?;
        Ok(ear)
    }

    async fn send(
        &self,
        line: &Arc<Line>,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
    ) -> Result<Value, RedisError> {
        let unanswered = Unanswered::new(self, line);
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        unanswered.answered(&answer);
        answer
    }

    async fn connected(&self) -> Result<(Arc<Line>, MultiplexedConnection)> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = line.connection.get_or_try_init(|| self.dial_in_time(&line)).await?.clone();
        Ok((line, connection))
    }

    /// A server may fall silent at any step of what it takes, so the limit is for all of them together.
    async fn dial_in_time(&self, line: &Arc<Line>) -> Result<MultiplexedConnection> {
        let limit = self.options.connect_timeout;
        let (mut dialling, mut pause) = (pin!(self.dial(line)), self.clock.sleep(limit));
        poll_fn(|context| match dialling.as_mut().poll(context) {
            Poll::Ready(dialled) => Poll::Ready(dialled),
            Poll::Pending => pause.as_mut().poll(context).map(|()| {
                Err(Error::unavailable(format!(
                    "no connection within {limit:?}; is it up, and can it be reached?"
                )))
            }),
        })
        .await
    }

    async fn dial(&self, line: &Arc<Line>) -> Result<MultiplexedConnection> {
        let client = self.client().await?;
        let (ears, lines, this) = (self.ears.clone(), Arc::downgrade(&self.line), Arc::downgrade(line));
        let config = AsyncConnectionConfig::new()
            // The whole of it has its limit, and so has every call: a connection that is given up is retired by that.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(BUFFER)
            .set_push_sender(move |push: redis::PushInfo| {
                if push.kind == PushKind::Disconnection {
                    retire(&lines, &this, &ears);
                } else {
                    ears.hear(&push);
                }
                Ok::<(), redis::aio::SendError>(())
            });
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)?;
        let mut preparation = redis::pipe();
        scripts::ALL.iter().for_each(|script| {
            preparation.add_command(script.load());
        });
        preparation.exec_async(&mut connection).await.map_err(unreachable)?;
        let channels = self.ears.channels();
        if !channels.is_empty() {
            connection.subscribe(channels).await.map_err(unreachable)?;
        }
        self.ears.take_stale();
        Ok(connection)
    }

    async fn client(&self) -> Result<Client> {
        let mut info = self.info.clone();
        if let Some(ask) = &self.options.credentials {
            let credentials = ask().await?;
            let mut settings =
                info.redis_settings().clone().set_password(credentials.password.expose_secret());
            if let Some(user) = &credentials.user {
                settings = settings.set_username(user);
            }
            info = info.set_redis_settings(settings);
        }
        Client::open(info).map_err(|error| {
            Error::new(ErrorKind::Misconfigured, format!("the driver does not take these settings: {error}"))
                .caused_by(error)
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.endpoint())
    }
}

/// Gives a line up, once: the next call dials anew, calls that are under way on the old one may still be answered.
fn retire(lines: &Weak<Mutex<Arc<Line>>>, line: &Weak<Line>, ears: &Ears) {
    let (Some(lines), Some(line)) = (lines.upgrade(), line.upgrade()) else { return };
    if line.retired.swap(true, Ordering::SeqCst) {
        return;
    }
    {
        let mut current = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, &line) {
            *current = Arc::default();
        }
    }
    ears.gap();
}

/// A call that has not been answered yet. One that its caller gave up on after a while makes its line suspect: behind a black
/// hole everything else sent on it would be lost as well.
struct Unanswered<'a> {
    link: &'a Link,
    line: &'a Arc<Line>,
    since: BootTime,
    answered: bool,
}

impl<'a> Unanswered<'a> {
    fn new(link: &'a Link, line: &'a Arc<Line>) -> Unanswered<'a> {
        Unanswered { link, line, since: link.clock.boot(), answered: false }
    }

    fn answered<T>(mut self, answer: &Result<T, RedisError>) {
        self.answered = true;
        if answer.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            self.retire();
        }
    }

    fn retire(&self) {
        retire(&Arc::downgrade(&self.link.line), &Arc::downgrade(self.line), &self.link.ears);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered && self.link.clock.boot().since(self.since) >= PATIENCE {
            self.retire();
        }
    }
}
