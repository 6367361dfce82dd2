//! [`Link`]: the endpoint that is used, and when it is given up for another.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Client, GetOptions, GetResponse, ResponseHeader, StatusResponse, Txn, TxnResponse};
use lock_core::{BootTime, Clock, Effect, Error, Event, EventSink, Result, SystemClock, telemetry};
use tokio::sync::OnceCell;

use crate::claim::Said;
use crate::dial::{Dial, Failed};
use crate::failure::{failed, failed_on_old_line, is_of_the_endpoint};
use crate::gather::{Gather, Request, Sent};
use crate::watch::{Range, Tell, Watch, Watches};

/// An endpoint on which a call was given up that had been on its way for so long may be dead without a word.
const PATIENCE: Duration = Duration::from_millis(300);

/// The way to the store: through one endpoint at a time. The driver would spread calls over all of them, also over one that hangs.
pub(crate) struct Link {
    dial: Dial,
    line: Mutex<Arc<Line>>,
    turn: AtomicUsize,
    clock: SystemClock,
    listeners: Mutex<Vec<Weak<EventSink>>>,
    /// The highest revision of the store that was seen.
    revision: AtomicI64,
}

/// One endpoint, for as long as it answers.
pub(crate) struct Line {
    endpoint: String,
    client: OnceCell<Client>,
    retired: tokio::sync::watch::Sender<bool>,
    watches: Watches,
    gather: Arc<Gather>,
}

impl Link {
    pub(crate) fn new(dial: Dial) -> Link {
        let endpoints = dial.endpoints();
        // Not everybody at the first of them.
        let first = usize::from(std::process::id() as u16) % endpoints.len().max(1);
        let line = Arc::new(Line::new(endpoints.get(first).cloned().unwrap_or_default()));
        Link {
            dial,
            line: Mutex::new(line),
            turn: AtomicUsize::new(first),
            clock: SystemClock::new(),
            listeners: Mutex::default(),
            revision: AtomicI64::new(0),
        }
    }

    /// All of them, without secrets.
    pub(crate) fn endpoint(&self) -> String {
        format!("{:?}", self.dial)
    }

    /// Makes sure that some endpoint answers. Each has its share of the time, and a new line has been answered.
    pub(crate) async fn connect(&self) -> Result<()> {
        for _ in 1..self.dial.endpoints().len() {
            let line = self.current();
            let connected = self.line().await;
            // Otherwise another one would say the same.
            if connected.is_ok() || !*line.retired.borrow() {
                return connected.map(|_| ());
            }
        }
        self.line().await.map(|_| ())
    }

    /// Whoever listens is told of each gap.
    pub(crate) fn listen(&self, sink: &Arc<EventSink>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(sink));
    }

    /// One transaction, and the line over which it went.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<(TxnResponse, Arc<Line>)> {
        let before = self.revision();
        let send = |client: &Client, _: &Line| {
            let mut kv = client.kv_client();
            async move { kv.txn(txn).await }
        };
        let (response, line) = self.on_line(send).await?;
        self.is_at(response.header().map(ResponseHeader::revision), before);
        Ok((response, line))
    }

    /// A transaction that may make a claim, together with others where calls are under way; and the line over which it went.
    pub(crate) async fn claim(&self, request: impl Fn() -> Request) -> Result<(Said, Arc<Line>)> {
        let before = self.revision();
        match self.gathered(request).await? {
            (Sent::Claimed(said), line) => {
                self.is_at(said.revision().ok(), before);
                Ok((said, line))
            }
            (_, line) => Err(lost().at(line.endpoint.clone())),
        }
    }

    /// Deletes a key, in the same way; returns how many there were.
    pub(crate) async fn delete(&self, key: &str) -> Result<i64> {
        match self.gathered(|| Request::Deletion(key.to_owned())).await? {
            (Sent::Deleted(deleted), _) => Ok(deleted),
            (_, line) => Err(lost().at(line.endpoint.clone())),
        }
    }

    /// Sends it again only where nothing has come of it before.
    async fn gathered(&self, request: impl Fn() -> Request) -> Result<(Sent, Arc<Line>)> {
        let mut alone = false;
        loop {
            let send = |client: &Client, line: &Line| {
                let (gather, kv, request) = (line.gather.clone(), client.kv_client(), request());
                async move { if alone { gather.alone(kv, request).await } else { gather.send(kv, request).await } }
            };
            match self.on_line(send).await? {
                (Sent::Refused, _) => alone = true,
                (Sent::Closed, _) => {}
                answered => return Ok(answered),
            }
        }
    }

    pub(crate) async fn get(&self, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<GetResponse> {
        let key = key.into();
        self.call(|client| {
            let mut kv = client.kv_client();
            async move { kv.get(key, Some(options)).await }
        })
        .await
    }

    pub(crate) async fn status(&self) -> Result<StatusResponse> {
        self.call(|client| {
            let mut maintenance = client.maintenance_client();
            async move { maintenance.status().await }
        })
        .await
    }

    /// One call. Dropping it may leave it running.
    pub(crate) async fn call<T, F>(&self, call: impl FnOnce(&Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.on_line(|client, _| call(client)).await.map(|(answer, _)| answer)
    }

    /// The same, for whoever also needs the line. (The whole client is not copied for it: it has nine parts.)
    async fn on_line<T, F>(&self, call: impl FnOnce(&Client, &Line) -> F) -> Result<(T, Arc<Line>)>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let line = self.current();
        let unanswered = Unanswered { link: self, line: &line, sent: self.clock.boot(), answered: false };
        let is_new = !line.client.initialized();
        let answer = match line.client(&self.dial).await {
            Ok(client) => {
                let call = call(client, &line);
                tokio::select! {
                    biased;
                    answer = call => answer,
                    // What another call has found out about the endpoint holds for this one: a member without the others may let
                    // both hang.
                    () = line.is_retired() => {
                        unanswered.answered(None);
                        return Err(given_up().at(line.endpoint.clone()));
                    }
                }
            }
            Err(Failed::There(error)) => Err(error),
            Err(Failed::Here(error)) => {
                unanswered.answered(None);
                return Err(error.at(line.endpoint.clone()));
            }
            Err(Failed::Silent(error) | Failed::Refused(error)) => {
                self.retire(&line);
                return Err(error.at(line.endpoint.clone()));
            }
        };
        unanswered.answered(answer.as_ref().err());
        // Its files for TLS may have been renewed since.
        let failed = if is_new { failed } else { failed_on_old_line };
        match answer {
            Ok(answer) => Ok((answer, line)),
            Err(error) => Err(failed(error).at(line.endpoint.clone())),
        }
    }

    /// The highest revision of the store that was seen by now.
    fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    /// The store is at this revision, for a question that was asked when this other one had been seen.
    fn is_at(&self, revision: Option<i64>, before: i64) {
        let Some(revision) = revision else { return };
        if revision < before {
            tracing::warn!(
                target: telemetry::TARGET,
                "the store at {} has gone back from revision {before} to {revision}: it was emptied, or restored from a snapshot. \
                 Tokens that were granted meanwhile may come again, and what is protected by them has to be told",
                self.endpoint(),
            );
            // Said once.
            let _ = self.revision.compare_exchange(before, revision, Ordering::SeqCst, Ordering::SeqCst);
        } else {
            self.revision.fetch_max(revision, Ordering::SeqCst);
        }
    }

    /// The line in use, connected.
    pub(crate) async fn line(&self) -> Result<Arc<Line>> {
        self.on_line(|_, _| async { Ok(()) }).await.map(|((), line)| line)
    }

    fn current(&self) -> Arc<Line> {
        let line = self.last();
        if !line.watches.have_broken() {
            return line;
        }
        self.retire(&line);
        self.last()
    }

    fn last(&self) -> Arc<Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives an endpoint up for the next, once, and tells everybody that something may have been missed.
    fn retire(&self, line: &Arc<Line>) {
        if line.retired.send_replace(true) {
            return;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
        let endpoints = self.dial.endpoints();
        let endpoint = endpoints[turn % endpoints.len()].clone();
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Line::new(endpoint));
        line.watches.close();
        // In this order: what waited there finds the new line.
        line.gather.close();
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
            retired: tokio::sync::watch::Sender::new(false),
            watches: Watches::default(),
            gather: Arc::default(),
        }
    }

    /// The channel below connects at its first call, and anew when it breaks.
    async fn client(&self, dial: &Dial) -> Result<&Client, Failed> {
        self.client.get_or_try_init(|| dial.line(&self.endpoint)).await
    }

    async fn is_retired(&self) {
        // It fails only without a sender, which is this line's own.
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await;
    }

    /// Watches, from the store's present on. For a line that was connected.
    ///
    /// # Errors
    /// Outside a Tokio runtime.
    pub(crate) fn watch(&self, range: Range, tell: Tell) -> Result<Watch> {
        let client = self.client.get().ok_or_else(|| Error::unavailable("there is no connection yet"))?;
        self.watches.watch(client, range, tell)
    }
}

/// Nobody has answered, and nobody is listened to any more.
fn given_up() -> Error {
    Error::unavailable("the endpoint was given up for another before it answered").effect(Effect::Unknown)
}

/// Nobody knows what became of it.
fn lost() -> Error {
    Error::unavailable("the runtime on which it was sent together with others has ended")
        .effect(Effect::Unknown)
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
