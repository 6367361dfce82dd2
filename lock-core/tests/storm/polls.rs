//! Futures dropped at every await point.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Polls a future at most `count` times, whenever it is woken, and drops it then.
pub(crate) async fn poll_some<F: Future>(count: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|context| {
        if polls >= count {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls >= count => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
