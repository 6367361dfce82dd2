//! [`Ears`]: the one connection on which news come, and the task that has it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{
    ClaimRef, Clock, Effect, Error, ErrorKind, Event, EventSink, Reason, Result, SessionId, SystemClock,
    Ticket, telemetry, within,
};
use sqlx::postgres::PgListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::ask::token;
use crate::dial::Dial;
use crate::failure::failed;
use crate::names::{from_hex, hex, key};
use crate::session::Fenced;

/// How often it is made sure that the connection still leads to a server, and for how long it may be silent then.
const PULSE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(2));

/// Before it is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What a client says to itself, to find out whether it hears.
pub(crate) const ECHO: &str = "echo";

/// What all sessions of a backend hear, on one channel.
pub(crate) struct Ears {
    dial: Arc<Dial>,
    channel: String,
    heard: Arc<Heard>,
    task: Mutex<Option<AbortHandle>>,
    /// Whether there has been a connection: between it and the next one something may be missed.
    has_heard: Arc<AtomicBool>,
    state: watch::Sender<State>,
    broken: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum State {
    /// Not yet, or not any more.
    Deaf,
    Listening(Echoes),
    Failed(Error),
}

/// How many words to itself have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echoes {
    count: u64,
    /// Which of the connections, one after the other: what was said to one that has ended, the next does not hear.
    connection: u64,
}

#[derive(Default)]
struct Heard {
    /// One session's may be more than one: it was opened again, and nobody knows whether the first is still in use.
    sinks: Mutex<HashMap<SessionId, Vec<(u64, EventSink)>>>,
    ears: AtomicU64,
}

/// One session's ear. It stops listening when it is dropped.
pub(crate) struct Ear {
    heard: Arc<Heard>,
    session: SessionId,
    number: u64,
}

impl Ears {
    pub(crate) fn new(dial: &Arc<Dial>, name: SessionId) -> Ears {
        Ears {
            dial: dial.clone(),
            channel: format!("fencepost_{}", hex(&name.as_u128().to_be_bytes())),
            heard: Arc::default(),
            task: Mutex::default(),
            has_heard: Arc::default(),
            state: watch::Sender::new(State::Deaf),
            broken: Arc::default(),
        }
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Told whenever the connection breaks.
    pub(crate) fn broken(&self) -> Arc<Notify> {
        self.broken.clone()
    }

    /// What concerns this session goes into this sink from now on.
    pub(crate) fn listen(&self, session: SessionId, sink: EventSink) -> Ear {
        let number = self.heard.ears.fetch_add(1, Ordering::Relaxed);
        self.heard.sinks().entry(session).or_default().push((number, sink));
        Ear { heard: self.heard.clone(), session, number }
    }

    /// Waits until the channel is heard, or cannot be. Returns which echoes have come on it.
    pub(crate) async fn are_open(&self) -> Result<Echoes> {
        self.make_sure()?;
        let heard = self.wait(|state| !matches!(state, State::Deaf)).await;
        match heard {
            Some(State::Listening(echoes)) => Ok(echoes),
            Some(State::Failed(error)) => Err(error),
            _ => Err(Error::unavailable(format!(
                "no answer within {:?} on the connection for news; is it up, and can it be reached from here?",
                self.dial.connect_timeout()
            ))),
        }
    }

    /// Whether more echoes than these come, in time.
    ///
    /// # Errors
    /// The connection has ended meanwhile: nobody knows whether they would have.
    pub(crate) async fn hear_more_than(&self, before: Echoes) -> Result<bool> {
        match self.wait(|state| !matches!(state, State::Listening(echoes) if *echoes == before)).await {
            None => Ok(false),
            Some(State::Listening(echoes)) if echoes.connection == before.connection => Ok(true),
            Some(State::Failed(error)) => Err(error),
            Some(State::Listening(_) | State::Deaf) => {
                Err(Error::unavailable("the connection for news has just ended; it is made anew")
                    .effect(Effect::NotApplied))
            }
        }
    }

    async fn wait(&self, until: impl FnMut(&State) -> bool) -> Option<State> {
        let mut state = self.state.subscribe();
        let found = within(&SystemClock::new(), self.dial.connect_timeout(), state.wait_for(until)).await;
        found?.ok().map(|state| state.clone())
    }

    /// That there is a task.
    ///
    /// # Errors
    /// Outside a Tokio runtime.
    pub(crate) fn make_sure(&self) -> Result<()> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let runtime = Handle::try_current()
            .map_err(|error| Error::unavailable("locks in Postgres need a Tokio runtime").caused_by(error))?;
        self.state.send_replace(State::Deaf);
        let serve = Serving {
            dial: self.dial.clone(),
            channel: self.channel.clone(),
            heard: self.heard.clone(),
            has_heard: self.has_heard.clone(),
            state: self.state.clone(),
            broken: self.broken.clone(),
        };
        *task = Some(runtime.spawn(serve.run()).abort_handle());
        Ok(())
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut sinks = self.heard.sinks();
        if let Some(ears) = sinks.get_mut(&self.session) {
            ears.retain(|(number, _)| *number != self.number);
            if ears.is_empty() {
                sinks.remove(&self.session);
            }
        }
    }
}

impl fmt::Debug for Ears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ears({})", self.channel)
    }
}

/// The task that has the connection.
struct Serving {
    dial: Arc<Dial>,
    channel: String,
    heard: Arc<Heard>,
    has_heard: Arc<AtomicBool>,
    state: watch::Sender<State>,
    broken: Arc<Notify>,
}

impl Serving {
    /// Listens for ever. Between two connections something may have been missed: everybody is told once the second one listens.
    async fn run(self) {
        let clock = SystemClock::new();
        let mut pause = PAUSE.0;
        for connection in 0.. {
            match self.dial.listener(&self.channel).await {
                Ok((mut listener, at)) => {
                    pause = PAUSE.0;
                    self.state.send_replace(State::Listening(Echoes { count: 0, connection }));
                    if self.has_heard.swap(true, Ordering::Relaxed) {
                        self.heard.tell_all(&Event::Gap);
                    }
                    let error = self.attend(&mut listener, at, &clock).await;
                    tracing::debug!(target: telemetry::TARGET, %error, "the connection for news has ended");
                    self.state.send_replace(State::Deaf);
                    self.broken.notify_one();
                    self.heard.tell_all(&Event::Gap);
                }
                Err(error) => {
                    self.state.send_replace(State::Failed(error));
                    clock.sleep(pause).await;
                    pause = (2 * pause).min(PAUSE.1);
                }
            }
        }
    }

    /// Why the connection is of no more use.
    async fn attend(&self, listener: &mut PgListener, at: usize, clock: &SystemClock) -> Error {
        loop {
            let news = within(clock, PULSE.0, listener.try_recv()).await;
            if self.dial.at() != at {
                return Error::unavailable("the statements go to another server");
            }
            match news {
                Some(Ok(Some(news))) if news.payload() == ECHO => self.state.send_modify(|state| {
                    if let State::Listening(echoes) = state {
                        echoes.count += 1;
                    }
                }),
                Some(Ok(Some(news))) => self.heard.tell(&self.dial, news.payload()),
                Some(Ok(None)) => return Error::unavailable("the server ended it"),
                Some(Err(error)) => return failed(error),
                None => match within(clock, PULSE.1, sqlx::query("SELECT 1").execute(&mut *listener)).await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return failed(error),
                    None => return Error::new(ErrorKind::TimedOut, "it is silent"),
                },
            }
        }
    }
}

impl Heard {
    fn tell(&self, dial: &Dial, payload: &str) {
        match read(dial, payload) {
            Some((session, event)) => {
                let ears = self.sinks().get(&session).cloned().unwrap_or_default();
                ears.iter().for_each(|(_, sink)| sink.send(event.clone()));
            }
            // Everybody in the database may send there.
            None => tracing::debug!(target: telemetry::TARGET, payload, "these are no news of a lock"),
        }
    }

    fn tell_all(&self, event: &Event) {
        let ears: Vec<_> = self.sinks().values().flatten().cloned().collect();
        ears.iter().for_each(|(_, sink)| sink.send(event.clone()));
    }

    fn sinks(&self) -> MutexGuard<'_, HashMap<SessionId, Vec<(u64, EventSink)>>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `SESSION g TICKET TOKEN KEY` (granted), `r TICKET` (to be claimed again), `v TICKET` (revoked), `w TICKET KEY` (wanted).
fn read(dial: &Dial, payload: &str) -> Option<(SessionId, Event)> {
    let words: Vec<&str> = payload.split(' ').collect();
    let (session, words) = words.split_first()?;
    let ticket = |text: &str| text.parse().ok().map(Ticket);
    let event = match words {
        ["g", number, granted, name] => {
            let token = token(granted.parse().ok()?).ok()?;
            Event::Granted {
                ticket: ticket(number)?,
                token,
                proof: Fenced::proof(dial, from_hex(name)?, token),
            }
        }
        ["r", number] => Event::Recheck(ticket(number)?),
        ["v", number] => Event::Revoked(ticket(number)?, Reason::Revoked),
        ["w", number, name] => Event::Wanted(ClaimRef::new(key(&from_hex(name)?)?, ticket(number)?)),
        _ => return None,
    };
    Some((session.parse().ok()?, event))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Only a connection that has listened all the time and heard nothing shows that there is a pooler in between.
    #[tokio::test]
    async fn a_connection_that_ends_meanwhile_is_none_that_hears_nothing() {
        let driver = sqlx::postgres::PgConnectOptions::new_without_pgpass();
        let options = crate::PostgresOptions::new().connect_timeout(Duration::from_millis(50));
        let ears = Ears::new(&Arc::new(Dial::new(vec![driver], options).unwrap()), SessionId::from_u128(7));
        let listening = |count, connection| State::Listening(Echoes { count, connection });
        let before = Echoes { count: 2, connection: 1 };
        for (state, heard) in [
            (listening(2, 1), Some(false)),
            (listening(3, 1), Some(true)),
            (State::Deaf, None),
            (listening(0, 2), None),
            (listening(3, 2), None),
            (State::Failed(Error::unavailable("nobody is there")), None),
        ] {
            ears.state.send_replace(state.clone());
            let answer = ears.hear_more_than(before).await;
            assert_eq!(answer.as_ref().ok().copied(), heard, "{state:?}");
            assert!(answer.is_ok() || answer.is_err_and(|error| error.is_retryable()), "{state:?}");
        }
    }

    #[test]
    fn what_is_no_news_is_none() {
        let driver = sqlx::postgres::PgConnectOptions::new_without_pgpass();
        let dial = Dial::new(vec![driver], crate::PostgresOptions::new()).unwrap();
        let session = SessionId::from_u128(7);
        for (payload, is_news) in [
            (format!("{session} g 3 99 6b"), true),
            (format!("{session} r 3"), true),
            (format!("{session} v 3"), true),
            (format!("{session} w 3 6b"), true),
            (format!("{session} g 3 0 6b"), false),
            (format!("{session} g 3 99 6"), false),
            (format!("{session} w 3 ff"), false),
            (format!("{session} x 3"), false),
            (format!("{session} r -3"), false),
            ("x r 3".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(read(&dial, &payload).is_some(), is_news, "{payload}");
        }
    }
}
