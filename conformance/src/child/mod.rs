//! [`Child`]: a client in a process of its own, which can be killed and stopped.
//!
//! It is this program once more, told by its environment what it is. Parent and child talk in lines: one order, one
//! answer.

mod serve;

use std::process::Stdio;
use std::time::Duration;

use lock_core::{Clock, FencingToken, LockKey, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

pub(crate) use self::serve::{Join, Order, serve};
use crate::verdict::{Failure, Verdict, expect};

const ADDRESS: &str = "CONFORMANCE_CHILD";
const TTL: &str = "CONFORMANCE_CHILD_TTL_MS";

/// A child that does not answer in this time has failed; the longest order counts for as long as a busy machine lets it.
const PATIENCE: Duration = Duration::from_secs(85);

/// The parent's end. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Child {
    pub(crate) fn start(address: &str, ttl: Duration) -> Verdict<Child> {
        let mut process = Command::new(std::env::current_exe()?)
            .env(ADDRESS, address)
            .env(TTL, ttl.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (orders, answers) = pipes.ok_or_else(|| Failure::new("pipes to a child", "there are none"))?;
        Ok(Child { process, orders, answers: BufReader::new(answers).lines() })
    }

    /// Gives an order; its answer is for [`Child::answer`] to hear.
    pub(crate) async fn order(&mut self, order: impl Into<String>) -> Verdict {
        let line = order.into() + "\n";
        self.orders.write_all(line.as_bytes()).await?;
        Ok(())
    }

    pub(crate) async fn answer(&mut self) -> Verdict<String> {
        tokio::select! {
            line = self.answers.next_line() => {
                line?.ok_or_else(|| Failure::new("an answer from a child process", "it ended without a word"))
            }
            () = SystemClock::new().sleep(PATIENCE) => {
                Err(Failure::new("an answer from a child process", format!("silence for {PATIENCE:?}")))
            }
        }
    }

    pub(crate) async fn ask(&mut self, order: impl Into<String>) -> Verdict<String> {
        self.order(order).await?;
        self.answer().await
    }

    /// Has it acquire a mutex.
    pub(crate) async fn acquire(&mut self, key: &LockKey) -> Verdict<FencingToken> {
        token(&self.ask(format!("acquire {}", key.as_str())).await?)
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Verdict {
        Ok(self.process.kill().await?)
    }

    /// Stops it as `kill -STOP` does.
    pub(crate) fn stop(&self) -> Verdict {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Verdict {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Verdict {
        let number = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = number.ok_or_else(|| Failure::new("a child that runs", "it has ended"))?;
        Ok(kill_process(pid, signal).map_err(std::io::Error::from)?)
    }
}

/// The token in an answer.
pub(crate) fn token(answer: &str) -> Verdict<FencingToken> {
    let number = answer.strip_prefix("token ").and_then(|number| number.parse().ok());
    expect(number.is_some(), "a child that is granted the lock", answer)?;
    Ok(FencingToken::new(number.unwrap_or_default())?)
}
