//! [`Gathering`]: a connection's task that lets others go first, so that what they send leaves together.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// A connection's task.
///
/// Whoever sends a command wakes it, and the runtime lets what was woken last run next: so it would write each command by itself, one
/// system call each. While several calls are under way it goes once to the end of the line instead, and then writes what all of
/// those before it have sent. (Measured with 64 tasks: more than twice the rate. Alone, a call waits for nobody.)
pub(crate) struct Gathering<F> {
    task: Pin<Box<F>>,
    under_way: Arc<AtomicUsize>,
    let_others_go: bool,
}

impl<F> Gathering<F> {
    pub(crate) fn new(task: F, under_way: Arc<AtomicUsize>) -> Gathering<F> {
        Gathering { task: Box::pin(task), under_way, let_others_go: false }
    }
}

impl<F: Future<Output = ()>> Future for Gathering<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.let_others_go = !self.let_others_go && self.under_way.load(Ordering::Relaxed) > 1;
        if self.let_others_go {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.task.as_mut().poll(context)
    }
}
