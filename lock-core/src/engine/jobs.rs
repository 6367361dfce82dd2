//! What has to go on although nobody awaits it: jobs, on the runtime captured at construction.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands jobs to one task that runs them side by side.
pub(super) struct Jobs {
    /// `None` once no more jobs are taken. The lock is held for no longer than a send.
    send: Mutex<Option<mpsc::UnboundedSender<(Job, Pending)>>>,
    pending: watch::Sender<usize>,
}

/// Counts one job until it has ended, or was dropped with its runtime.
struct Pending(watch::Sender<usize>);

impl Jobs {
    pub(super) fn start(runtime: &Handle) -> Jobs {
        let (send, receive) = mpsc::unbounded_channel();
        runtime.spawn(work(receive));
        Jobs { send: Mutex::new(Some(send)), pending: watch::Sender::new(0) }
    }

    /// Hands a job over. Without a runtime to run it, it is dropped: the TTL answers then.
    pub(super) fn hand_over(&self, job: impl Future<Output = ()> + Send + 'static) {
        let send = self.send.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(send) = &*send {
            let _ = send.send((Box::pin(job), Pending::count(&self.pending)));
        }
    }

    /// Takes no more jobs; those that were handed over are finished.
    pub(super) fn finish(&self) {
        self.send.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until no job is left.
    pub(super) async fn drained(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.pending.subscribe().wait_for(|&pending| pending == 0).await;
    }
}

impl Pending {
    fn count(pending: &watch::Sender<usize>) -> Pending {
        pending.send_modify(|count| *count += 1);
        Pending(pending.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn work(mut receive: mpsc::UnboundedReceiver<(Job, Pending)>) {
    let mut running = JoinSet::new();
    while let Some((job, pending)) = receive.recv().await {
        running.spawn(async move {
            let _pending = pending;
            job.await;
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jobs({} pending)", *self.pending.borrow())
    }
}
