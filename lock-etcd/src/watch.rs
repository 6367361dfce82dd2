//! [`Watches`]: all that is waited for, on one stream.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, EventType, WatchClient, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};
use lock_core::{BootTime, Clock, Error, ErrorKind, Result, SystemClock};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// A stream of watches lasts longer than this, or something is wrong with it.
const CALM: Duration = Duration::from_millis(100);

/// What a watch tells. Never blocks.
pub(crate) type Tell = Arc<dyn Fn(News<'_>) + Send + Sync>;

/// News of what is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News<'a> {
    /// Whatever happens after this revision is told.
    Begun { revision: i64 },
    /// This key was written.
    Written { value: &'a str },
    /// This key has gone, at this revision.
    Gone { name: &'a str, revision: i64 },
    /// Nothing more will come: whatever was watched for may have happened.
    Broken,
}

/// What is to be watched, from the store's present on: to begin in its past would be slow, as the server catches up with the past
/// ten times a second only. Whoever looked before compares the revisions.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) name: String,
    /// Everything that begins with the name.
    pub(crate) is_prefix: bool,
    /// Only what goes is of interest.
    pub(crate) only_gone: bool,
}

/// The watches over one line. The stream is opened with the first of them, and again after it broke.
#[derive(Default)]
pub(crate) struct Watches {
    task: Mutex<Option<Task>>,
    closed: Arc<AtomicBool>,
    /// A stream has broken with the connection under it.
    broke: Arc<AtomicBool>,
}

struct Task {
    orders: UnboundedSender<Order>,
    handle: AbortHandle,
}

enum Order {
    Watch { id: i64, range: Range, ear: Ear },
    Forget { id: i64 },
}

/// Whom a watch tells. It has ended when this is gone; and says so, unless nobody asks any more: also where its task is dropped
/// with a runtime that ends.
struct Ear {
    tell: Option<Tell>,
    alive: Arc<AtomicBool>,
}

/// One watch. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    id: i64,
    orders: UnboundedSender<Order>,
    alive: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
}

static IDS: AtomicI64 = AtomicI64::new(1);

impl Watches {
    /// # Errors
    /// Outside a Tokio runtime.
    pub(crate) fn watch(&self, client: &Client, range: Range, tell: Tell) -> Result<Watch> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // The runtime of the one before may have ended.
        let orders = match &*task {
            Some(task) if !task.handle.is_finished() && !task.orders.is_closed() => task.orders.clone(),
            _ => {
                let runtime = Handle::try_current().map_err(|_| {
                    Error::new(
                        ErrorKind::Misconfigured,
                        "locks in etcd are waited for inside a Tokio runtime",
                    )
                })?;
                let (orders, given) = unbounded_channel();
                let handle =
                    runtime.spawn(serve(client.watch_client(), given, self.broke.clone())).abort_handle();
                *task = Some(Task { orders: orders.clone(), handle });
                orders
            }
        };
        drop(task);
        let (id, alive) = (IDS.fetch_add(1, Ordering::Relaxed), Arc::new(AtomicBool::new(true)));
        let ear = Ear { tell: Some(tell), alive: alive.clone() };
        // If the task has ended meanwhile, the watch is broken from the start.
        let _ = orders.send(Order::Watch { id, range, ear });
        Ok(Watch { id, orders, alive, closed: self.closed.clone() })
    }

    /// Whether a stream has broken: the line is then made anew, and with it the token that stands for a password. A server that has
    /// lost its data lets whoever shows an old one wait.
    pub(crate) fn have_broken(&self) -> bool {
        self.broke.load(Ordering::SeqCst)
    }

    /// Nothing more is told. Whoever watched has to be told of that by another way.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.handle.abort();
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watches")
    }
}

impl Watch {
    /// Whether news may still come.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst) && !self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Forget { id: self.id });
    }
}

impl Ear {
    /// Nobody asks any more.
    fn forget(mut self) {
        self.tell = None;
    }
}

impl Drop for Ear {
    /// In this order: whoever asks again because of it finds the watch ended.
    fn drop(&mut self) {
        self.alive.store(false, Ordering::SeqCst);
        if let Some(tell) = self.tell.take() {
            tell(News::Broken);
        }
    }
}

async fn serve(client: WatchClient, mut orders: UnboundedReceiver<Order>, broke: Arc<AtomicBool>) {
    let mut ears: HashMap<i64, Ear> = HashMap::new();
    let mut stream: Option<WatchStream> = None;
    let (clock, mut began) = (SystemClock::new(), None);
    loop {
        let order = match &mut stream {
            None => orders.recv().await,
            Some(open) => tokio::select! {
                order = orders.recv() => order,
                response = open.message() => {
                    let goes_on = match response {
                        Ok(Some(response)) => told(&response, &mut ears),
                        Ok(None) | Err(_) => {
                            broke.store(true, Ordering::SeqCst);
                            false
                        }
                    };
                    if !goes_on {
                        stream = None;
                        broken(&mut ears, &clock, began).await;
                    }
                    continue;
                }
            },
        };
        let goes_on = match order {
            None => return,
            Some(Order::Forget { id }) => match (ears.remove(&id), &mut stream) {
                (Some(ear), Some(open)) => {
                    ear.forget();
                    open.cancel(id).await.is_ok()
                }
                // It has ended by itself.
                _ => true,
            },
            Some(Order::Watch { id, range, ear }) => {
                ears.insert(id, ear);
                if stream.is_none() {
                    began = Some(clock.boot());
                }
                begin(&client, &mut stream, id, range).await.is_ok()
            }
        };
        if !goes_on {
            stream = None;
            broken(&mut ears, &clock, began).await;
        }
    }
}

async fn begin(
    client: &WatchClient,
    stream: &mut Option<WatchStream>,
    id: i64,
    range: Range,
) -> Result<(), etcd_client::Error> {
    let mut options = WatchOptions::new().with_watch_id(id);
    if range.is_prefix {
        options = options.with_prefix();
    }
    if range.only_gone {
        options = options.with_filters([WatchFilterType::NoPut]);
    }
    match stream {
        Some(open) => open.watch(range.name, Some(options)).await,
        None => {
            *stream = Some(client.clone().watch(range.name, Some(options)).await?);
            Ok(())
        }
    }
}

/// Whether the stream is still good for the others.
fn told(response: &WatchResponse, ears: &mut HashMap<i64, Ear>) -> bool {
    let id = response.watch_id();
    if response.canceled() {
        // Also where what it would go on with has been compacted away. Of a watch that it refuses the server does not say which it
        // is: the token with which the stream was opened is over, say, and it refuses every one from then on.
        return ears.remove(&id).is_some() || !(response.created() || id < 0);
    }
    // What is told may end the watch, or another.
    let Some(tell) = ears.get(&id).and_then(|ear| ear.tell.clone()) else { return true };
    if response.created() {
        tell(News::Begun {
            revision: response.header().map_or(i64::MAX, etcd_client::ResponseHeader::revision),
        });
    }
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let (Ok(name), Ok(value)) = (kv.key_str(), kv.value_str()) else { continue };
        match event.event_type() {
            EventType::Put => tell(News::Written { value }),
            EventType::Delete => tell(News::Gone { name, revision: kv.mod_revision() }),
        }
    }
    true
}

/// Everybody is told, and asks again. A stream that breaks as soon as it has begun would have them ask without a pause.
async fn broken(ears: &mut HashMap<i64, Ear>, clock: &SystemClock, began: Option<BootTime>) {
    if began.is_some_and(|began| clock.boot().since(began) < CALM) {
        clock.sleep(CALM).await;
    }
    ears.clear();
}
