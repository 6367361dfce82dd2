//! Waits for the end of other processes' sessions.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lock_core::{Event, EventSink, SessionId, Ticket};
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Sessions;
use super::pipe::{self, Pipe};

/// How many sessions are watched for one ticket. Beyond that the engine's own recheck serves.
const BOUND: usize = 64;

/// The watches of one session, a task for each ticket.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<BTreeMap<Ticket, Watch>>);

#[derive(Debug)]
struct Watch {
    sessions: Vec<SessionId>,
    task: AbortHandle,
}

impl Watches {
    pub(super) fn watch(
        &self,
        runtime: &Handle,
        registry: &Arc<Sessions>,
        sink: &EventSink,
        ticket: Ticket,
        sessions: &[SessionId],
    ) {
        if sessions.is_empty() {
            return self.unwatch(ticket);
        }
        let mut watches = self.watches();
        if watches.get(&ticket).is_some_and(|old| old.sessions == sessions && !old.task.is_finished()) {
            return;
        }
        let task = {
            let (registry, sink, sessions) = (registry.clone(), sink.clone(), sessions.to_vec());
            runtime.spawn(async move {
                if first_end(&registry, &sessions).await {
                    sink.send(Event::Recheck(ticket));
                }
            })
        };
        let watch = Watch { sessions: sessions.to_vec(), task: task.abort_handle() };
        if let Some(old) = watches.insert(ticket, watch) {
            old.task.abort();
        }
    }

    pub(super) fn unwatch(&self, ticket: Ticket) {
        if let Some(watch) = self.watches().remove(&ticket) {
            watch.task.abort();
        }
    }

    pub(super) fn clear(&self) {
        for (_, watch) in std::mem::take(&mut *self.watches()) {
            watch.task.abort();
        }
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Ticket, Watch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with `true` when one of the sessions is over, and with `false` when none can be watched.
async fn first_end(registry: &Sessions, sessions: &[SessionId]) -> bool {
    let mut ends: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for &session in sessions.iter().take(BOUND) {
        match pipe::open(registry.directory(), session) {
            Ok(Pipe::Open(pipe)) => {
                let Ok(pipe) = Sender::from_owned_fd(pipe) else { continue };
                ends.push(Box::pin(async move {
                    // The kernel reports an error to writers when the last reader is gone.
                    let _ = pipe.ready(Interest::ERROR).await;
                }));
            }
            Ok(Pipe::Deserted) => return true,
            // The pipe alone may be gone: that is no end.
            Ok(Pipe::Absent) if registry.sight(session).is_ok_and(|sight| !sight.lives) => return true,
            Ok(Pipe::Absent) | Err(_) => {}
        }
    }
    if ends.is_empty() {
        return false;
    }
    poll_fn(|context| {
        let any = ends.iter_mut().any(|end| end.as_mut().poll(context).is_ready());
        if any { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    true
}
