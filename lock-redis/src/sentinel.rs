//! [`Sentinels`]: who say which server is the primary, and when another one becomes it.

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, Pipeline, PushInfo, PushKind, Value};

use crate::address::Address;
use crate::dial::{Signal, Signals, connect};
use crate::failure::{unexpected, unreachable};
use crate::options::RedisOptions;
use crate::reply;

/// For how long the others may take once most of them have answered, and once one has. One that is cut off together with an old
/// primary still names that: as long as it can be hoped for, most of them are heard.
const GRACE: Duration = Duration::from_millis(100);
const LONG_GRACE: Duration = Duration::from_millis(600);

/// Where a sentinel tells of a new primary: `NAME OLD-HOST OLD-PORT HOST PORT`.
pub(crate) const SWITCH: &str = "+switch-master";

/// The sentinels of one primary.
#[derive(Debug)]
pub(crate) struct Sentinels {
    /// How each of them is reached.
    infos: Vec<ConnectionInfo>,
    /// What they call the primary.
    name: String,
    /// How the primary is reached, but for its address.
    server: ConnectionInfo,
    /// Whom they named last.
    latest: Mutex<Option<Address>>,
}

/// The primary, and those who would say that it is another; nobody, if none of them could be asked.
pub(crate) struct Primary {
    pub(crate) server: ConnectionInfo,
    pub(crate) watch: Vec<MultiplexedConnection>,
    /// Most of the sentinels are among them.
    pub(crate) is_watched: bool,
}

/// What the connections to the sentinels tell, once it is known which of them are kept.
#[derive(Default)]
struct Watch {
    kept: OnceLock<Kept>,
}

struct Kept {
    primary: Address,
    ended: Vec<Arc<AtomicBool>>,
}

/// What one of them says.
struct Answer {
    address: Address,
    /// It rises with each failover: whoever knows of a later one is right.
    epoch: u64,
    connection: MultiplexedConnection,
    ended: Arc<AtomicBool>,
}

impl Sentinels {
    pub(crate) fn new(infos: Vec<ConnectionInfo>, name: String, server: ConnectionInfo) -> Sentinels {
        Sentinels { infos, name, server, latest: Mutex::default() }
    }

    pub(crate) fn endpoint(&self) -> String {
        let hosts: Vec<_> = self.infos.iter().map(|info| info.addr().to_string()).collect();
        let scheme = if Address::is_with_tls(&self.server) { "rediss+sentinel" } else { "redis+sentinel" };
        format!("{scheme}://{}/{}", hosts.join(","), self.name)
    }

    /// Asks all of them. `signals` then tells of another primary, and when nobody is left who would.
    ///
    /// Whoever cannot reach any of them stays with the primary that they named last: that they are away is no reason to lose a lock.
    pub(crate) async fn primary(&self, options: &RedisOptions, signals: &Signals) -> Result<Primary> {
        let latest = self.latest().clone();
        let watch: Arc<Watch> = Arc::default();
        let (answers, refusals) = self.answers(options, signals, &watch, latest.is_some()).await;
        let primary = match (answers.iter().max_by_key(|answer| answer.epoch), latest) {
            (Some(answer), _) => answer.address.clone(),
            (None, Some(latest)) if refusals.iter().all(|(_, error)| error.is_retryable()) => latest,
            (None, _) => return Err(self.nobody_knows(&refusals)),
        };
        *self.latest() = Some(primary.clone());
        let server = primary.reached_from_here(options).info(&self.server);
        let ended: Vec<_> = answers.iter().map(|answer| answer.ended.clone()).collect();
        // Nobody else sets it.
        let _ = watch.kept.set(Kept { primary, ended: ended.clone() });
        if !ended.is_empty() && ended.iter().all(|ended| ended.load(Ordering::SeqCst)) {
            // Before anybody looked.
            signals(Signal::Ended);
        }
        let is_watched = 2 * answers.len() > self.infos.len();
        Ok(Primary {
            server,
            is_watched,
            watch: answers.into_iter().map(|answer| answer.connection).collect(),
        })
    }

    /// Of those that answer in time. Who knows a primary already does not wait for long for somebody to say so again.
    async fn answers(
        &self,
        options: &RedisOptions,
        signals: &Signals,
        watch: &Arc<Watch>,
        is_known: bool,
    ) -> (Vec<Answer>, Vec<(&ConnectionInfo, Error)>) {
        let clock = SystemClock::new();
        let mut asked: FuturesUnordered<_> =
            self.infos.iter().map(|info| self.ask(info, options, signals, watch)).collect();
        let (mut answers, mut refusals) = (Vec::new(), Vec::new());
        let mut limit = is_known.then(|| clock.sleep(options.connect_timeout / 4));
        loop {
            let next = poll_fn(|context| match asked.poll_next_unpin(context) {
                Poll::Pending => match &mut limit {
                    Some(limit) => limit.as_mut().poll(context).map(|()| None),
                    None => Poll::Pending,
                },
                ready => ready,
            });
            match next.await {
                None => return (answers, refusals),
                Some(Ok(answer)) => {
                    answers.push(answer);
                    let are_most = 2 * answers.len() > self.infos.len();
                    if answers.len() == 1 && !are_most {
                        limit = Some(clock.sleep(LONG_GRACE.min(options.connect_timeout / 4)));
                    } else if are_most && 2 * (answers.len() - 1) <= self.infos.len() {
                        limit = Some(clock.sleep(GRACE));
                    }
                }
                Some(Err(refusal)) => refusals.push(refusal),
            }
        }
    }

    async fn ask<'a>(
        &self,
        info: &'a ConnectionInfo,
        options: &RedisOptions,
        signals: &Signals,
        watch: &Arc<Watch>,
    ) -> Result<Answer, (&'a ConnectionInfo, Error)> {
        let ended: Arc<AtomicBool> = Arc::default();
        let told = self.told(watch, signals, &ended);
        let answer = async {
            let mut connection = connect(info.clone(), options, told, None).await?;
            let (address, epoch) = self.question(&mut connection).await?;
            Ok(Answer { address, epoch, connection, ended })
        };
        answer.await.map_err(|error| (info, error))
    }

    /// Where the primary is, and how new that is.
    async fn question(&self, connection: &mut MultiplexedConnection) -> Result<(Address, u64)> {
        // Before the question, so that no switch falls between.
        connection.subscribe(SWITCH).await.map_err(unreachable)?;
        let mut questions = Pipeline::new();
        for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER"] {
            let mut command = Cmd::new();
            command.arg("SENTINEL").arg(question).arg(&self.name);
            questions.add_command(command);
        }
        let answers = connection.send_packed_commands(&questions, 0, 2).await.map_err(unreachable)?;
        let [named, described] = &answers[..] else {
            return Err(Error::unavailable("a sentinel did not answer both questions"));
        };
        let address = match named.clone().extract_error().map_err(unreachable)? {
            Value::Nil => {
                return Err(Error::new(
                    ErrorKind::Misconfigured,
                    format!("it watches no primary called {:?}", self.name),
                ));
            }
            Value::Array(words) => match &words[..] {
                [host, port] => reply::text(host).zip(reply::number(port)).and_then(Address::of),
                _ => None,
            },
            _ => None,
        };
        let address = address.ok_or_else(|| unexpected("SENTINEL GET-MASTER-ADDR-BY-NAME", named))?;
        Ok((address, epoch(described).unwrap_or(0)))
    }

    /// What a sentinel's connection may tell.
    fn told(&self, watch: &Arc<Watch>, signals: &Signals, ended: &Arc<AtomicBool>) -> Signals {
        let (name, watch, signals, ended) =
            (self.name.clone(), watch.clone(), signals.clone(), ended.clone());
        Arc::new(move |signal| match signal {
            Signal::Ended => {
                ended.store(true, Ordering::SeqCst);
                let nobody_is_left =
                    |kept: &Kept| kept.ended.iter().all(|ended| ended.load(Ordering::SeqCst));
                if watch.kept.get().is_some_and(nobody_is_left) {
                    signals(Signal::Ended);
                }
            }
            Signal::Push(push) => {
                let Some(next) = switched(&push, &name) else { return };
                // All of them tell; who has heard it from the first is there already.
                if watch.kept.get().is_none_or(|kept| kept.primary != next) {
                    signals(Signal::Ended);
                }
            }
        })
    }

    fn latest(&self) -> MutexGuard<'_, Option<Address>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with most of them is said of all.
    fn nobody_knows(&self, refusals: &[(&ConnectionInfo, Error)]) -> Error {
        let Some((_, first)) = refusals.first() else {
            return Error::new(ErrorKind::Misconfigured, "there is no sentinel to ask");
        };
        let passing = refusals.iter().find(|(_, error)| error.is_retryable());
        let (_, error) = passing.unwrap_or(&refusals[0]);
        let mut message = format!("no sentinel says where {:?} is", self.name);
        for (info, refusal) in refusals {
            // Writing to a string cannot fail.
            let _ = write!(message, "; {}: {}", info.addr(), refusal.message());
        }
        Error::new(error.kind().clone(), message).retryable(first.is_retryable() || passing.is_some())
    }
}

fn epoch(described: &Value) -> Option<u64> {
    let Value::Map(fields) = described else { return None };
    let (_, epoch) = fields.iter().find(|(name, _)| reply::text(name) == Some("config-epoch"))?;
    reply::number(epoch)
}

/// The primary that is told of, if this is news of one.
fn switched(push: &PushInfo, name: &str) -> Option<Address> {
    let (PushKind::Message, [_, text]) = (&push.kind, &*push.data) else { return None };
    let mut words = reply::text(text)?.split(' ');
    if words.next()? != name {
        return None;
    }
    let (host, port) = (words.nth(2)?, words.next()?);
    Address::of((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_another_primary() {
        let push = |text: &str| PushInfo {
            kind: PushKind::Message,
            data: [SWITCH, text].iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect(),
        };
        let next = switched(&push("locks 10.0.0.1 6379 ::1 6380"), "locks");
        assert_eq!(next.map(|address| address.to_string()), Some("[::1]:6380".to_owned()));
        for other in ["others 10.0.0.1 6379 10.0.0.2 6379", "locks 10.0.0.1 6379", "", "locks a 1 b x"] {
            assert!(switched(&push(other), "locks").is_none(), "{other:?}");
        }
    }
}
