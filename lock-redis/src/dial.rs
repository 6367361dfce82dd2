//! [`Dialer`]: how a connection is made, and made ready.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{FutureExt, future};
use lock_core::{Clock, Error, ErrorKind, ExposeSecret, Result, SystemClock};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion, PushInfo,
    RedisConnectionInfo,
};

use crate::ears::Ears;
use crate::failure::unreachable;
use crate::options::RedisOptions;
use crate::scripts;

/// How many calls may be on their way into the driver: a renewal must not queue behind a burst of claims.
const BUFFER: usize = 1024;

/// Behind a connection on which nothing was answered for so long, or for so many of its round trips, and a call given up, there
/// may be nobody any more. They are measured once, perhaps in a bad moment: hence the bound.
const PATIENCE: Duration = Duration::from_millis(100);
const ROUND_TRIPS: u32 = 4;
const LONGEST_PATIENCE: Duration = Duration::from_millis(500);

/// A connection that is ready.
#[derive(Clone)]
pub(crate) struct Dialed {
    pub(crate) connection: MultiplexedConnection,
    /// For how long it may be silent before it is suspect.
    pub(crate) patience: Duration,
}

/// Makes connections: each is ready when the server has the scripts and sends to everybody who listens.
#[derive(Clone)]
pub(crate) struct Dialer {
    info: ConnectionInfo,
    options: RedisOptions,
    ears: Arc<Ears>,
}

impl Dialer {
    pub(crate) fn new(info: &ConnectionInfo, options: RedisOptions, ears: Arc<Ears>) -> Dialer {
        // Small commands, each awaited: without it they wait for the acknowledgement of the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Dialer { info: info.clone().set_tcp_settings(tcp).set_redis_settings(redis), options, ears }
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

    /// A server may fall silent at any step of what it takes, so the limit is for all of them together.
    pub(crate) async fn dial(self, hear: impl Fn(PushInfo) + Send + Sync + 'static) -> Result<Dialed> {
        let limit = self.options.connect_timeout;
        let (mut dialing, mut pause) = (pin!(self.steps(hear)), SystemClock::new().sleep(limit));
        poll_fn(|context| match dialing.as_mut().poll(context) {
            Poll::Ready(dialed) => Poll::Ready(dialed),
            Poll::Pending => pause.as_mut().poll(context).map(|()| {
                Err(Error::unavailable(format!(
                    "no connection within {limit:?}; is it up, and can it be reached from here?"
                )))
            }),
        })
        .await
    }

    async fn steps(&self, hear: impl Fn(PushInfo) + Send + Sync + 'static) -> Result<Dialed> {
        let client = self.client().await?;
        let config = AsyncConnectionConfig::new()
            // The whole of it has its limit, and so has every call: a connection that is given up is retired by that.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(BUFFER)
            .set_push_sender(move |push: PushInfo| {
                hear(push);
                Ok::<(), redis::aio::SendError>(())
            });
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(unreachable)?;
        let mut preparation = redis::pipe();
        scripts::ALL.iter().for_each(|script| {
            preparation.add_command(script.load());
        });
        let (clock, channels) = (SystemClock::new(), self.ears.channels());
        let sent = clock.boot();
        let mut listening = connection.clone();
        // One after the other on the wire, one round trip for both: the way back may be long, and a lease short.
        let (prepared, listens) = future::join(preparation.exec_async(&mut connection), async {
            if channels.is_empty() { Ok(()) } else { listening.subscribe(channels).await }
        })
        .await;
        prepared.and(listens).map_err(unreachable)?;
        let patience = (clock.boot().since(sent) * ROUND_TRIPS).clamp(PATIENCE, LONGEST_PATIENCE);
        Ok(Dialed { connection, patience })
    }

    async fn client(&self) -> Result<Client> {
        let mut info = self.info.clone();
        if let Some(ask) = &self.options.credentials {
            // Whoever dials next would meet a panic again: the dialing is shared.
            let asked = AssertUnwindSafe(async { ask().await }).catch_unwind().await;
            let credentials = asked
                .map_err(|_| Error::new(ErrorKind::Denied, "the callback for credentials panicked"))??;
            // Of what was there before, neither user nor password may be left.
            let mut settings = RedisConnectionInfo::default()
                .set_protocol(ProtocolVersion::RESP3)
                .set_db(info.redis_settings().db())
                .set_password(credentials.password.expose_secret());
            if let Some(user) = &credentials.user {
                settings = settings.set_username(user);
            }
            info = info.set_redis_settings(settings);
        }
        // Not the driver's own words: they may repeat what was in the settings.
        Client::open(info).map_err(|_| {
            Error::new(ErrorKind::Misconfigured, "the driver does not take this address or these settings")
        })
    }
}
