//! From a release to the moment at which the next holder runs: within one process, and between two.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Backend, Clock, LockClient, SystemClock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};

use crate::table::{Table, rounded};
use crate::{Subject, client};

const ROUNDS: usize = 1_000;
const ADDRESS: &str = "LOCK_BENCHES_CHILD";

pub(crate) fn measure(runtime: &Runtime, subject: &dyn Subject, table: &mut Table) {
    let floor = runtime.block_on(floor(subject));
    let (one, other) = (client(runtime, subject), client(runtime, subject));
    let within = runtime.block_on(async {
        let task = tokio::spawn(async move { take_turns(&other).await });
        let mut stamps = take_turns(&one).await;
        stamps.extend(task.await.unwrap());
        hand_offs(stamps)
    });
    note(table, "hand-off within one process", &within, &floor);
    let Some(address) = subject.address() else { return };
    let between = runtime.block_on(async {
        let child = |address: &str| {
            let program = std::env::current_exe().unwrap();
            Command::new(program)
                .env(ADDRESS, address)
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        };
        let mut stamps = Vec::new();
        let mut children = [child(&address), child(&address)];
        for child in &mut children {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
                stamps.push((numbers[0], numbers[1], numbers[2]));
            }
        }
        hand_offs(stamps)
    });
    note(table, "hand-off between processes", &between, &floor);
}

/// Set in a child.
pub(crate) fn child() -> Option<String> {
    std::env::var(ADDRESS).ok()
}

/// In a child: takes turns, and prints when it held.
pub(crate) fn serve(backend: Arc<dyn Backend>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = LockClient::builder(backend).ttl(Duration::from_secs(60)).build().unwrap();
        for (token, from, until) in take_turns(&client).await {
            println!("{token} {from} {until}");
        }
    });
}

/// Each turn's token, and from when until when it was held, in nanoseconds of the machine's clock.
async fn take_turns(client: &LockClient) -> Vec<(u64, u64, u64)> {
    let clock = SystemClock::new();
    let lock = client.mutex("hand-off").unwrap();
    let mut turns = Vec::new();
    for _ in 0..ROUNDS {
        let guard = lock.acquire().await.unwrap();
        let from = clock.boot();
        // Only a release that somebody waits for is a hand-off.
        while !guard.is_wanted() && clock.boot().since(from) < Duration::from_millis(20) {
            tokio::task::yield_now().await;
        }
        turns.push((guard.token().get(), from.as_nanos(), clock.boot().as_nanos()));
        guard.release().await.unwrap();
    }
    turns
}

/// How long each took that went from one to the other.
fn hand_offs(mut turns: Vec<(u64, u64, u64)>) -> Vec<Duration> {
    turns.sort_unstable();
    // One's own next turn is asked for after its release: the same measure.
    let mut times: Vec<_> =
        turns.windows(2).map(|pair| Duration::from_nanos(pair[1].1.saturating_sub(pair[0].2))).collect();
    times.sort_unstable();
    times
}

/// What a hand-off is measured by.
struct Way {
    what: &'static str,
    time: Duration,
}

/// A store behind a server: one question and its answer. Any other: a byte's way through a socket.
async fn floor(subject: &dyn Subject) -> Way {
    let clock = SystemClock::new();
    let mut floor = subject.floor().await;
    if !floor.round_trip().await {
        return Way { what: "a byte through a socket", time: between_two_ends().await };
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let from = clock.boot();
        floor.round_trip().await;
        times.push(clock.boot().since(from));
    }
    times.sort_unstable();
    Way { what: "a question and its answer", time: times[times.len() / 2] }
}

fn note(table: &mut Table, shape: &str, times: &[Duration], floor: &Way) {
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000];
    let text = format!(
        "p50 {:?}, p99 {:?}, worst {:?}; floor {:?} ({})",
        rounded(at(500)),
        rounded(at(990)),
        rounded(at(1000)),
        rounded(floor.time),
        floor.what
    );
    table.note(shape, text, Some(at(500).as_secs_f64() / floor.time.as_secs_f64()));
}

/// The median of a byte's way from one task to another through a socket.
async fn between_two_ends() -> Duration {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        while other.read_exact(&mut byte).await.is_ok() {
            other.write_all(&byte).await.unwrap();
        }
    });
    let clock = SystemClock::new();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let from = clock.boot();
        one.write_all(&[1]).await.unwrap();
        one.read_exact(&mut [0]).await.unwrap();
        times.push(clock.boot().since(from) / 2);
    }
    drop(one);
    echo.await.unwrap();
    times.sort_unstable();
    times[times.len() / 2]
}
