//! The child's end: it does as it is told, one order a line, and answers each with one line.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    AcquireOptions, Backend, Clock, Error, FencingToken, Guard, HoldState, LockClient, LockKey, Result,
    SystemClock,
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::task::JoinHandle;

use super::{ADDRESS, TTL};
use crate::counter;
use crate::runtime::runtime;

/// How a child reaches the store, by the address that its parent was given.
pub(crate) type Join =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Arc<dyn Backend>>> + Send>> + Send + Sync>;

/// What this program was started as a child for.
#[derive(Debug)]
pub(crate) struct Order {
    address: String,
    ttl: Duration,
}

impl Order {
    /// `None` for a program that is no child.
    pub(crate) fn given() -> Option<Order> {
        let address = std::env::var(ADDRESS).ok()?;
        let millis = std::env::var(TTL).ok()?.parse().ok()?;
        Some(Order { address, ttl: Duration::from_millis(millis) })
    }
}

/// Serves until its parent has nothing more to say.
pub(crate) fn serve(order: Order, join: Option<&Join>) -> ExitCode {
    let Some(join) = join else {
        answer("error: the suite was not told how a child reaches the store: see Suite::children");
        return ExitCode::FAILURE;
    };
    let Ok(runtime) = runtime() else { return ExitCode::FAILURE };
    runtime.block_on(async {
        let joined = join(order.address).await;
        let client =
            joined.and_then(|backend| LockClient::builder(backend).ttl(order.ttl).name("child").build());
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                answer(format!("error: {error}"));
                return ExitCode::FAILURE;
            }
        };
        let mut servant = Servant { client, guard: None, waiting: None };
        let mut lines = BufReader::new(stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let words: Vec<&str> = line.split(' ').collect();
            match servant.obey(&words).await {
                Ok(said) => answer(said),
                Err(error) => answer(format!("error: {error}")),
            }
        }
        ExitCode::SUCCESS
    })
}

struct Servant {
    client: LockClient,
    guard: Option<Guard>,
    waiting: Option<JoinHandle<Result<Guard>>>,
}

impl Servant {
    async fn obey(&mut self, words: &[&str]) -> Result<String> {
        Ok(match words {
            ["acquire", key] => {
                let guard = self.client.mutex(*key)?.acquire().await?;
                self.hold(guard)
            }
            ["acquire-for", key, at_least] => {
                let options = AcquireOptions::new().hold_at_least(millis(at_least)?);
                let guard = self.client.mutex(*key)?.acquire_with(&options).await?;
                self.hold(guard)
            }
            ["try", key] => match self.client.mutex(*key)?.try_acquire().await? {
                Ok(guard) => self.hold(guard),
                Err(_) => "busy".to_owned(),
            },
            // Its answer comes at once; the lock is for `granted` to tell of.
            ["wait", key] => {
                let lock = self.client.mutex(*key)?;
                self.waiting = Some(tokio::spawn(async move { lock.acquire().await }));
                "waiting".to_owned()
            }
            ["granted"] => match self.waiting.take() {
                Some(waiting) => match waiting.await {
                    Ok(guard) => {
                        let guard = guard?;
                        self.hold(guard)
                    }
                    Err(panic) => format!("panic: {panic}"),
                },
                None => "nobody waits".to_owned(),
            },
            ["state"] => self.guard.as_ref().map_or("none".to_owned(), |guard| state(guard.state())),
            // Answers when the work has ended: dropped, for it never does by itself.
            ["work"] => match &self.guard {
                Some(guard) => match guard.run(std::future::pending::<()>()).await {
                    Ok(()) => "done".to_owned(),
                    Err(lost) => format!("lost {}", lost.0.as_str()),
                },
                None => "none".to_owned(),
            },
            ["release"] => match self.guard.take() {
                Some(guard) => guard.release().await?.to_string(),
                None => "none".to_owned(),
            },
            ["detach", key, time] => {
                let lock = self.client.mutex(*key)?;
                let held = lock.acquire_detached(millis(time)?, &AcquireOptions::new()).await?;
                format!("token {}", held.token)
            }
            ["end", key, number] => {
                let token = FencingToken::new(number.parse().map_err(|_| confused(words))?)?;
                self.client.release_detached(LockKey::new(*key)?, token).await?.to_string()
            }
            ["count", key, file, tasks, times] => {
                let (tasks, times) = (number(tasks)?, number(times)?);
                counter::count(&self.client, key, file.as_ref(), tasks, times).await?
            }
            _ => return Err(confused(words)),
        })
    }

    fn hold(&mut self, guard: Guard) -> String {
        let said = format!("token {}", guard.token());
        self.guard = Some(guard);
        said
    }
}

fn state(state: HoldState) -> String {
    let now = SystemClock::new().boot();
    match state {
        HoldState::Held { until } => format!("held {}", until.since(now).as_millis()),
        HoldState::AtRisk { until } => format!("at_risk {}", until.since(now).as_millis()),
        HoldState::Ended(end) => match end {
            lock_core::End::Lost(reason) => format!("lost {}", reason.as_str()),
            end => end.to_string(),
        },
        other => format!("{other:?}"),
    }
}

fn millis(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(number(text)? as u64))
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no number")))
}

fn confused(words: &[&str]) -> Error {
    Error::invalid(format!("a child knows no order {words:?}"))
}

#[expect(clippy::print_stdout, reason = "the parent listens there")]
fn answer(words: impl std::fmt::Display) {
    println!("{words}");
}
