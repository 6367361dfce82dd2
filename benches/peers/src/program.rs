//! [`Program`]: a peer in another language, in a program of its own: it is asked by lines and answers by lines, so that it has its
//! turn in every round.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::figures::{Cycles, HandOffs};

/// A peer in a program of its own.
pub struct Program {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Builds it by this command, in a directory beside this package's sources, and waits until it is connected.
    ///
    /// # Errors
    /// Why it has to be left out.
    pub async fn start(directory: &str, command: &str, arguments: &[&str]) -> Result<Program, String> {
        let mut child = Command::new(command)
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("there is no `{command}` on the PATH ({error})"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no input or output".to_owned());
        };
        let mut program = Program { child, orders, answers: BufReader::new(answers).lines() };
        match program.answers.next_line().await {
            // What builds it may have left a colour behind.
            Ok(Some(line)) if line.ends_with("ready") => Ok(program),
            other => Err(format!("the program in {directory} does not run ({other:?})")),
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
        let Program { mut child, orders, answers } = self;
        drop((orders, answers));
        let _ = child.wait().await;
    }

    async fn ask(&mut self, order: &str) -> Value {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the program runs");
        let line = self.answers.next_line().await.expect("its words").expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }
}
