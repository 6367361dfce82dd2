//! [`Dialer`]: how a connection is made, and made ready.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use lock_core::{BootTime, Clock, Error, ErrorKind, ExposeSecret, Result, SystemClock};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, ServerErrorKind, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::address::Address;
use crate::ears::{self, Ears};
use crate::failure::{unexpected, unreachable};
use crate::gather::Gathering;
use crate::options::{Credentials, RedisOptions};
use crate::sentinel::Sentinels;
use crate::{reply, scripts, tls};

/// How many calls may be on their way into the driver: a renewal must not queue behind a burst of claims.
const BUFFER: usize = 1024;

/// Behind a connection on which nothing was answered for so long, or for so many of its round trips, and a call given up, there
/// may be nobody any more. They are measured once, perhaps in a bad moment: hence the bound.
const PATIENCE: Duration = Duration::from_millis(100);
const ROUND_TRIPS: u32 = 4;
const LONGEST_PATIENCE: Duration = Duration::from_millis(500);

/// For how long a primary is used while most of the sentinels could not be asked, before they are asked again.
const UNWATCHED: Duration = Duration::from_secs(3);

/// Where a connection is to lead.
#[derive(Clone)]
pub(crate) enum Target {
    /// To this server.
    Server(Box<ConnectionInfo>),
    /// To whichever server the sentinels call the primary.
    Primary(Arc<Sentinels>),
}

/// What a connection is for. In a cluster, commands and news need two: the server says by a push that a channel's slot has
/// moved, and the driver takes that push for the answer to a command, and each further answer for that of the command behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Everything,
    Commands,
    News,
}

/// What may come over a connection without having been asked for.
pub(crate) enum Signal {
    /// The server pushed something.
    Push(PushInfo),
    /// It ends here: broken, or another server is the primary now.
    Ended,
}

/// Takes signals. Never blocks.
pub(crate) type Signals = Arc<dyn Fn(Signal) + Send + Sync>;

/// A connection that is ready.
#[derive(Clone)]
pub(crate) struct Dialed {
    pub(crate) connection: MultiplexedConnection,
    /// For how long it may be silent before it is suspect.
    pub(crate) patience: Duration,
    /// The sentinels, who say when another server becomes the primary.
    pub(crate) watch: Arc<[MultiplexedConnection]>,
    /// When to ask them again, if most of them do not watch.
    pub(crate) ask_again_at: Option<BootTime>,
}

/// Makes connections: each is ready when the server has the scripts and sends to everybody who listens.
#[derive(Clone)]
pub(crate) struct Dialer {
    target: Target,
    purpose: Purpose,
    options: RedisOptions,
    ears: Arc<Ears>,
}

impl Dialer {
    pub(crate) fn new(target: Target, purpose: Purpose, options: RedisOptions, ears: Arc<Ears>) -> Dialer {
        Dialer { target, purpose, options, ears }
    }

    /// Where it leads, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        match &self.target {
            Target::Server(info) => endpoint(info),
            Target::Primary(sentinels) => sentinels.endpoint(),
        }
    }

    /// Whether another attempt may lead to another server.
    pub(crate) fn may_lead_elsewhere(&self) -> bool {
        matches!(self.target, Target::Primary(_))
    }

    /// A server may fall silent at any step of what it takes, so the limit is for all of them together.
    pub(crate) async fn dial(self, signals: Signals, under_way: Arc<AtomicUsize>) -> Result<Dialed> {
        let limit = self.options.connect_timeout;
        let (mut dialing, mut pause) =
            (pin!(self.steps(signals, &under_way)), SystemClock::new().sleep(limit));
        poll_fn(|context| match dialing.as_mut().poll(context) {
            Poll::Ready(dialed) => Poll::Ready(dialed),
            Poll::Pending => pause.as_mut().poll(context).map(|()| {
                Err(Error::unavailable(format!(
                    "no connection within {limit:?}; is it up, can it be reached from here, and does it speak TLS (rediss) or \
                     not (redis)?"
                )))
            }),
        })
        .await
    }

    async fn steps(&self, signals: Signals, under_way: &Arc<AtomicUsize>) -> Result<Dialed> {
        let (info, watch, is_watched) = match &self.target {
            Target::Server(info) => (ConnectionInfo::clone(info), Vec::new(), true),
            Target::Primary(sentinels) => {
                let found = sentinels.primary(&self.options, &signals).await?;
                (found.server, found.watch, found.is_watched)
            }
        };
        let at = endpoint(&info);
        let info = with_credentials(info, &self.options).await?;
        let dialing = async {
            let mut connection = connect(info, &self.options, signals, Some(under_way)).await?;
            let patience = self.prepare(&mut connection).await?;
            Ok((connection, patience))
        };
        // Where sentinels led to is not what the URL names.
        let (connection, patience) = dialing.await.map_err(|error: Error| error.at(at))?;
        let ask_again_at = (!is_watched).then(|| SystemClock::new().boot() + UNWATCHED);
        Ok(Dialed { connection, patience, watch: watch.into(), ask_again_at })
    }

    /// All in one round trip, for the way back may be long and a lease short. Returns for how long it may be silent.
    async fn prepare(&self, connection: &mut MultiplexedConnection) -> Result<Duration> {
        let (mut preparation, mut count) = (Pipeline::new(), 0);
        let mut add = |command: Cmd| {
            preparation.add_command(command);
            count += 1;
        };
        if let Some(name) = &self.options.client_name {
            add(words(&["CLIENT", "SETNAME", name]));
        }
        if self.may_lead_elsewhere() {
            add(words(&["ROLE"]));
        }
        if self.purpose != Purpose::News {
            scripts::ALL.iter().for_each(|script| add(script.load()));
        }
        let channels = self.ears.channels();
        channels.iter().for_each(|channel| add(ears::subscription(channel)));
        if count == 0 {
            // Nothing to measure it by.
            return Ok(LONGEST_PATIENCE);
        }
        let clock = SystemClock::new();
        let sent = clock.boot();
        let answers = connection.send_packed_commands(&preparation, 0, count).await.map_err(unreachable)?;
        let patience = (clock.boot().since(sent) * ROUND_TRIPS).clamp(PATIENCE, LONGEST_PATIENCE);
        let (prepared, listens) = answers.split_at(answers.len().saturating_sub(channels.len()));
        for answer in prepared {
            let answer = answer.clone().extract_error().map_err(unreachable)?;
            if let Value::Array(role) = &answer
                && role.first().and_then(reply::text) != Some("master")
            {
                return Err(Error::unavailable(
                    "the sentinels name it as the primary, and it is a replica now: a failover is under way",
                ));
            }
        }
        for (channel, answer) in channels.iter().zip(listens) {
            match answer.clone().extract_error() {
                Ok(answer) if ears::confirms(&answer, channel) => {}
                Ok(answer) => return Err(unexpected("a subscription", &answer)),
                // Its slot is elsewhere by now.
                Err(error) if error.kind() == ServerErrorKind::Moved.into() => self.ears.lost(channel),
                Err(error) => return Err(unreachable(error)),
            }
        }
        Ok(patience)
    }
}

/// Where this leads, without secrets.
pub(crate) fn endpoint(info: &ConnectionInfo) -> String {
    let address = match info.addr() {
        ConnectionAddr::Unix(path) => format!("redis+unix://{}", path.display()),
        address @ ConnectionAddr::TcpTls { .. } => format!("rediss://{address}"),
        address => format!("redis://{address}"),
    };
    match info.redis_settings().db() {
        0 => address,
        db => format!("{address} (database {db})"),
    }
}

/// One connection to one server, as the user that the settings name. Through TLS and without a count of the calls that are under
/// way the driver opens it, and its task writes each command as it comes.
pub(crate) async fn connect(
    info: ConnectionInfo,
    options: &RedisOptions,
    signals: Signals,
    under_way: Option<&Arc<AtomicUsize>>,
) -> Result<MultiplexedConnection> {
    let client = client(info, options)?;
    let config = AsyncConnectionConfig::new()
        // The whole of it has its limit, and so has every call: a connection that is given up is retired by that.
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFER)
        .set_push_sender(move |push: PushInfo| {
            signals(if push.kind == PushKind::Disconnection { Signal::Ended } else { Signal::Push(push) });
            Ok::<(), redis::aio::SendError>(())
        });
    let info = client.get_connection_info();
    let connected = match (info.addr(), under_way) {
        (ConnectionAddr::Tcp(host, port), Some(under_way)) => {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(|error| unreachable(error.into()))?;
            // Small commands, each awaited: without it they wait for the acknowledgement of the one before.
            stream.set_nodelay(true).map_err(|error| unreachable(error.into()))?;
            gathering(stream, info.redis_settings(), config, under_way).await
        }
        #[cfg(unix)]
        (ConnectionAddr::Unix(path), Some(under_way)) => {
            let stream =
                tokio::net::UnixStream::connect(path).await.map_err(|error| unreachable(error.into()))?;
            gathering(stream, info.redis_settings(), config, under_way).await
        }
        _ => client.get_multiplexed_async_connection_with_config(&config).await,
    };
    connected.map_err(unreachable)
}

async fn gathering(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    settings: &RedisConnectionInfo,
    config: AsyncConnectionConfig,
    under_way: &Arc<AtomicUsize>,
) -> redis::RedisResult<MultiplexedConnection> {
    let (connection, task) = MultiplexedConnection::new_with_config(settings, stream, config).await?;
    // It ends with the last clone of the connection.
    Handle::current().spawn(Gathering::new(task, under_way.clone()));
    Ok(connection)
}

async fn with_credentials(info: ConnectionInfo, options: &RedisOptions) -> Result<ConnectionInfo> {
    let Some(ask) = &options.credentials else { return Ok(info) };
    // Whoever dials next would meet a panic again: the dialing is shared.
    let asked = AssertUnwindSafe(async { ask().await }).catch_unwind().await;
    let credentials =
        asked.map_err(|_| Error::new(ErrorKind::Denied, "the callback for credentials panicked"))??;
    // Of what was there before, neither user nor password may be left.
    let settings = RedisConnectionInfo::default().set_db(info.redis_settings().db());
    Ok(info.set_redis_settings(as_user(settings, &credentials)))
}

/// The settings, with this user and password.
pub(crate) fn as_user(settings: RedisConnectionInfo, credentials: &Credentials) -> RedisConnectionInfo {
    let settings = settings.set_password(credentials.password.expose_secret());
    match &credentials.user {
        Some(user) => settings.set_username(user),
        None => settings,
    }
}

fn client(info: ConnectionInfo, options: &RedisOptions) -> Result<Client> {
    // Small commands, each awaited: without it they wait for the acknowledgement of the one before.
    let tcp = TcpSettings::default().set_nodelay(true);
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_tcp_settings(tcp).set_redis_settings(redis);
    if Address::is_with_tls(&info) {
        return tls::client(&options.tls, info);
    }
    // Not the driver's own words: they may repeat what was in the settings.
    Client::open(info).map_err(|_| {
        Error::new(ErrorKind::Misconfigured, "the driver does not take this address or these settings")
    })
}

fn words(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}
