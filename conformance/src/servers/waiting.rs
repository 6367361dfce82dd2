//! [`until`]: servers agree when they agree; a test waits for that, not for a time.

use std::future::Future;
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, Result, SystemClock};
use tokio::task::JoinSet;

/// For how long servers may take to do what they have been told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Asks until there is an answer: an error means "not yet" too, and is told when time is up.
///
/// # Errors
/// [`TimedOut`](ErrorKind::TimedOut) after 20 seconds, with what was waited for.
pub(super) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>> + Send,
{
    let clock = SystemClock::new();
    let mut too_long = clock.sleep(PATIENCE);
    let mut last = None;
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = &mut too_long => {
                let error = Error::new(ErrorKind::TimedOut, format!("not within {PATIENCE:?}: {what}"));
                return Err(match last {
                    Some(last) => error.caused_by(last),
                    None => error,
                });
            }
        };
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        clock.sleep(LOOK).await;
    }
}

/// Does all of it at once, and returns what came of it in the order in which it was given. The first error ends the others.
pub(super) async fn together<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut tasks = JoinSet::new();
    for (number, one) in all.into_iter().enumerate() {
        tasks.spawn(async move { one.await.map(|done| (number, done)) });
    }
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        done.push(ended.map_err(|error| Error::unavailable("a start came to no end").caused_by(error))??);
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, done)| done).collect())
}
