//! [`Watches`]: all that is waited for, on one stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{
    Client, EventType, WatchClient, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};
use lock_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// What a watch tells. Never blocks.
pub(crate) type Tell = Arc<dyn Fn(News<'_>) + Send + Sync>;

/// News of what is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News<'a> {
    /// This key was written.
    Written { value: &'a str },
    /// This key has gone.
    Gone { name: &'a str },
    /// Nothing more will come: whatever was watched for may have happened.
    Broken,
}

/// What is to be watched.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) name: String,
    /// Everything that begins with the name.
    pub(crate) is_prefix: bool,
    /// Only what goes is of interest.
    pub(crate) only_gone: bool,
    /// From the revision behind the one that was looked at: nothing falls between the look and the watch.
    pub(crate) from: i64,
}

/// The watches over one line. The stream is opened with the first of them, and again after it broke.
#[derive(Default)]
pub(crate) struct Watches {
    task: Mutex<Option<Task>>,
}

struct Task {
    orders: UnboundedSender<Order>,
    handle: AbortHandle,
}

enum Order {
    Watch { id: i64, range: Range, tell: Tell },
    Forget { id: i64 },
}

/// One watch. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    id: i64,
    orders: UnboundedSender<Order>,
}

static IDS: AtomicI64 = AtomicI64::new(1);

impl Watches {
    /// # Errors
    /// Outside a Tokio runtime.
    pub(crate) fn watch(&self, client: &Client, range: Range, tell: Tell) -> Result<Watch> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // The runtime of the one before may have ended.
        if task.as_ref().is_none_or(|task| task.handle.is_finished() || task.orders.is_closed()) {
            let runtime = Handle::try_current().map_err(|_| {
                Error::new(ErrorKind::Misconfigured, "locks in etcd are waited for inside a Tokio runtime")
            })?;
            let (orders, given) = unbounded_channel();
            let handle = runtime.spawn(serve(client.watch_client(), given)).abort_handle();
            *task = Some(Task { orders, handle });
        }
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let orders = task.as_ref().map(|task| task.orders.clone());
        drop(task);
        let orders = orders.ok_or_else(|| Error::unavailable("nobody watches"))?;
        // If the task has ended meanwhile, the watch is broken from the start.
        if let Err(order) = orders.send(Order::Watch { id, range, tell }) {
            if let Order::Watch { tell, .. } = order.0 {
                tell(News::Broken);
            }
        }
        Ok(Watch { id, orders })
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.handle.abort();
        }
    }
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watches")
    }
}

impl Watch {
    /// Whether news may still come. Not after the line was given up.
    pub(crate) fn is_alive(&self) -> bool {
        !self.orders.is_closed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Forget { id: self.id });
    }
}

async fn serve(client: WatchClient, mut orders: UnboundedReceiver<Order>) {
    let mut watched: HashMap<i64, Tell> = HashMap::new();
    let mut stream: Option<WatchStream> = None;
    loop {
        let order = match &mut stream {
            None => orders.recv().await,
            Some(open) => tokio::select! {
                order = orders.recv() => order,
                response = open.message() => {
                    match response {
                        // The token with which the stream was opened has expired, and the server names no watch that it
                        // refuses for that: a new stream takes the new token.
                        Ok(Some(response)) if response.canceled() && response.watch_id() < 0 => {
                            stream = None;
                            broken(&mut watched);
                        }
                        Ok(Some(response)) => told(&response, &mut watched),
                        Ok(None) | Err(_) => {
                            stream = None;
                            broken(&mut watched);
                        }
                    }
                    continue;
                }
            },
        };
        match order {
            None => return,
            Some(Order::Forget { id }) => {
                // Else it has ended by itself.
                if watched.remove(&id).is_some()
                    && let Some(open) = &mut stream
                    && open.cancel(id).await.is_err()
                {
                    stream = None;
                    broken(&mut watched);
                }
            }
            Some(Order::Watch { id, range, tell }) => {
                watched.insert(id, tell);
                if begin(&client, &mut stream, id, range).await.is_err() {
                    stream = None;
                    broken(&mut watched);
                }
            }
        }
    }
}

async fn begin(
    client: &WatchClient,
    stream: &mut Option<WatchStream>,
    id: i64,
    range: Range,
) -> Result<(), etcd_client::Error> {
    let mut options = WatchOptions::new().with_start_revision(range.from).with_watch_id(id);
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

fn told(response: &WatchResponse, watched: &mut HashMap<i64, Tell>) {
    let id = response.watch_id();
    if response.canceled() {
        // Also where what it was to begin with has been compacted away.
        if let Some(tell) = watched.remove(&id) {
            tell(News::Broken);
        }
        return;
    }
    let Some(tell) = watched.get(&id).cloned() else { return };
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let (Ok(name), Ok(value)) = (kv.key_str(), kv.value_str()) else { continue };
        match event.event_type() {
            EventType::Put => tell(News::Written { value }),
            EventType::Delete => tell(News::Gone { name }),
        }
    }
}

fn broken(watched: &mut HashMap<i64, Tell>) {
    for (_, tell) in std::mem::take(watched) {
        tell(News::Broken);
    }
}
