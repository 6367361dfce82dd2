//! Go's `concurrency.Mutex`, in a program of its own: it is asked by lines and answers by lines, so that it has its turn in every
//! round.

use std::path::Path;
use std::process::Stdio;

use fencepost_peers::figures::{Cycles, HandOffs};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub struct Go {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Go {
    /// Builds it, and waits until it is connected.
    ///
    /// # Errors
    /// Why it has to be left out.
    pub async fn start(address: &str) -> Result<Go, String> {
        let mut child = Command::new("go")
            .args(["run", ".", address])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go/etcd"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("there is no `go` on the PATH ({error})"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no input or output".to_owned());
        };
        let mut go = Go { child, orders, answers: BufReader::new(answers).lines() };
        match go.answers.next_line().await {
            Ok(Some(line)) if line == "ready" => Ok(go),
            _ => Err("the Go program does not run; what it said is above".to_owned()),
        }
    }

    /// `floor` or `mutex`; so many tasks, each on a key of its own or all on one.
    pub async fn cycles(&mut self, what: &str, tasks: usize, keys: &str, millis: u128) -> Cycles {
        let words = self.ask(&format!("cycles {what} {tasks} {keys} {millis}")).await;
        Cycles::read(&words).expect("all figures")
    }

    /// Between two sessions: `short` or `long` waits, `quiet` or with `writers`.
    pub async fn hand_offs(&mut self, samples: usize, wait: &str, around: &str) -> HandOffs {
        let words = self.ask(&format!("hand-offs {samples} {wait} {around}")).await;
        HandOffs::read(&words).expect("all figures")
    }

    /// At the end of its input it ends.
    pub async fn end(self) {
        let Go { mut child, orders, answers } = self;
        drop((orders, answers));
        let _ = child.wait().await;
    }

    async fn ask(&mut self, order: &str) -> Value {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the Go program runs");
        let line = self.answers.next_line().await.expect("its words").expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }
}
