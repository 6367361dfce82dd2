//! [`within`]: a future that is given up when its time is over.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::{Clock, Pause};

/// What comes of a future within a time, for backends that bound what a driver may not.
///
/// ```
/// use std::time::Duration;
///
/// use lock_core::{SystemClock, within};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let answer = within(&SystemClock::new(), Duration::from_secs(1), async { 42 }).await;
/// assert_eq!(answer, Some(42));
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// `None` when the time is over first; the future is dropped then. One that is ready at once costs no timer.
///
/// # Cancel Safety
/// Dropping it drops the future.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, coming: impl Future<Output = T>) -> Option<T> {
    let mut coming = pin!(coming);
    let mut timer: Option<Pause> = None;
    poll_fn(|context| {
        if let Poll::Ready(value) = coming.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        timer.get_or_insert_with(|| clock.sleep(limit)).as_mut().poll(context).map(|()| None)
    })
    .await
}
