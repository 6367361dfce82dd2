//! [`Link`]: the endpoint that is used, and when it is given up for another.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::Client;
use lock_core::{BootTime, Clock, Event, EventSink, Result, SystemClock};
use tokio::sync::OnceCell;

use crate::dial::{Dial, Failed};
use crate::failure::{failed, failed_on_old_line, is_of_the_endpoint};
use crate::watch::Watches;

/// An endpoint on which a call was given up that had been on its way for so long may be dead without a word.
const PATIENCE: Duration = Duration::from_millis(300);

/// The way to the store: through one endpoint at a time. The driver would spread calls over all of them, also over one that hangs.
pub(crate) struct Link {
    dial: Dial,
    state: Mutex<State>,
    turn: AtomicUsize,
    clock: SystemClock,
    listeners: Mutex<Vec<Weak<EventSink>>>,
}

struct State {
    line: Arc<Line>,
}

/// One endpoint, for as long as it answers.
pub(crate) struct Line {
    endpoint: String,
    client: OnceCell<Client>,
    retired: AtomicBool,
    pub(crate) watches: Watches,
}

impl Link {
    pub(crate) fn new(dial: Dial) -> Link {
        let endpoints = dial.endpoints();
        // Not everybody at the first of them.
        let first = usize::from(std::process::id() as u16) % endpoints.len().max(1);
        let line = Arc::new(Line::new(endpoints.get(first).cloned().unwrap_or_default()));
        Link {
            dial,
            state: Mutex::new(State { line }),
            turn: AtomicUsize::new(first),
            clock: SystemClock::new(),
            listeners: Mutex::default(),
        }
    }

    /// All of them, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        format!("{:?}", self.dial)
    }

    /// Whoever listens is told of each gap.
    pub(crate) fn listen(&self, sink: &Arc<EventSink>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(sink));
    }

    /// One call. Dropping it may leave it running.
    pub(crate) async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.on_line(|_, client| call(client)).await
    }

    /// The same, for whoever also needs the line.
    pub(crate) async fn on_line<T, F>(&self, call: impl FnOnce(Arc<Line>, Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let line = self.line();
        let unanswered = Unanswered { link: self, line: &line, sent: self.clock.boot(), answered: false };
        let is_new = !line.client.initialized();
        let answer = match line.client(&self.dial).await {
            Ok(client) => call(line.clone(), client).await,
            Err(Failed::There(error)) => Err(error),
            Err(Failed::Here(error)) => {
                unanswered.answered(None);
                return Err(error.at(line.endpoint.clone()));
            }
        };
        unanswered.answered(answer.as_ref().err());
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) if is_new => match self.dial.refusal(&line.endpoint, &error).await {
                Some(refusal) => refusal.caused_by(error),
                None => failed(error),
            },
            // Its files for TLS may have been renewed since.
            Err(error) => failed_on_old_line(error),
        };
        Err(error.at(line.endpoint.clone()))
    }

    fn line(&self) -> Arc<Line> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).line.clone()
    }

    /// Gives an endpoint up for the next, once, and tells everybody that something may have been missed.
    fn retire(&self, line: &Arc<Line>) {
        if line.retired.swap(true, Ordering::SeqCst) {
            return;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
        let endpoints = self.dial.endpoints();
        let endpoint = endpoints[turn % endpoints.len()].clone();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).line = Arc::new(Line::new(endpoint));
        let listeners: Vec<_> = {
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.iter().filter_map(Weak::upgrade).collect()
        };
        listeners.iter().for_each(|sink| sink.send(Event::Gap));
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.endpoint())
    }
}

impl Line {
    fn new(endpoint: String) -> Line {
        Line {
            endpoint,
            client: OnceCell::new(),
            retired: AtomicBool::new(false),
            watches: Watches::default(),
        }
    }

    /// The channel below connects at its first call, and anew when it breaks.
    async fn client(&self, dial: &Dial) -> Result<Client, Failed> {
        self.client.get_or_try_init(|| dial.line(&self.endpoint)).await.cloned()
    }
}

/// A call that has not been answered yet. When its caller gives it up, its endpoint is suspect.
struct Unanswered<'a> {
    link: &'a Link,
    line: &'a Arc<Line>,
    sent: BootTime,
    answered: bool,
}

impl Unanswered<'_> {
    fn answered(mut self, error: Option<&etcd_client::Error>) {
        self.answered = true;
        if error.is_some_and(is_of_the_endpoint) {
            self.link.retire(self.line);
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered && self.link.clock.boot().since(self.sent) >= PATIENCE {
            self.link.retire(self.line);
        }
    }
}
