//! Between processes: how long a hand-off takes, and what waiting costs.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run says so by panicking")]
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lock_core::{Clock, LockClient, SystemClock};
use lock_file::FileOptions;
use tokio::runtime::Builder;

const ROUNDS: usize = 2_000;
const WAITERS: usize = 10;
const PROCESSES: usize = 10;
const WAITING: Duration = Duration::from_secs(5);

fn main() {
    let role = std::env::var("BENCH_ROLE");
    let dir = std::env::var_os("BENCH_DIR").map(PathBuf::from);
    let child = Builder::new_current_thread().enable_all().build().unwrap();
    match (role.as_deref(), dir) {
        (Ok("hand-off"), Some(dir)) => child.block_on(hand_off(&dir)),
        (Ok("wait"), Some(dir)) => child.block_on(wait(&dir)),
        // Its own lock is renewed by another thread while it reads what its children have to say.
        _ => Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(measure()),
    }
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("released"), 0_u64.to_be_bytes()).unwrap();
    let two: Vec<_> = (0..2).map(|_| start("hand-off", dir.path())).collect();
    let mut latencies: Vec<u64> = two.into_iter().flat_map(numbers).collect();
    latencies.sort_unstable();
    let at = |permille: usize| latencies[latencies.len() * permille / 1000] / 1000;
    println!(
        "hand-off between two processes: median {} µs, p99 {} µs, worst {} µs ({} hand-offs)",
        at(500),
        at(990),
        latencies.last().unwrap() / 1000,
        latencies.len()
    );

    let held = client(dir.path()).mutex("wait").unwrap().acquire().await.unwrap();
    let ten: Vec<_> = (0..PROCESSES).map(|_| start("wait", dir.path())).collect();
    let spent: Vec<u64> = ten.into_iter().flat_map(numbers).collect();
    let worst = spent.iter().max().unwrap() * 10_000 / u64::try_from(WAITING.as_nanos()).unwrap();
    assert!(held.state().is_held());
    println!(
        "{} waiters in {PROCESSES} processes for {WAITING:?}: at most {}.{:02} % of a core for a process",
        WAITERS * PROCESSES,
        worst / 100,
        worst % 100
    );
}

/// Takes turns with another process, and says how long after each release the next one held.
async fn hand_off(dir: &Path) {
    let clock = SystemClock::new();
    let (client, released) = (client(dir), dir.join("released"));
    let lock = client.mutex("hand-off").unwrap();
    let mut last = 0;
    for _ in 0..ROUNDS {
        let guard = lock.acquire().await.unwrap();
        let now = clock.boot().as_nanos();
        let stamp = u64::from_be_bytes(std::fs::read(&released).unwrap().try_into().unwrap());
        // One's own stamp is no hand-off.
        if stamp != last && stamp != 0 {
            println!("{}", now - stamp);
        }
        // Only a release that somebody waits for is one.
        while !guard.is_wanted() && clock.boot().as_nanos() - now < 50_000_000 {
            tokio::task::yield_now().await;
        }
        last = clock.boot().as_nanos();
        std::fs::write(&released, last.to_be_bytes()).unwrap();
        guard.release().await.unwrap();
    }
}

/// Waits in vain with many tasks, and says how many nanoseconds of a core that took.
async fn wait(dir: &Path) {
    let client = client(dir);
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let lock = client.mutex("wait").unwrap();
        waiters.spawn(async move { lock.acquire().await.map(|_| ()) });
    }
    while client.inspect("wait").await.unwrap().queue.len() < WAITERS * PROCESSES {
        SystemClock::new().sleep(Duration::from_millis(20)).await;
    }
    let before = nanoseconds_on_a_core();
    SystemClock::new().sleep(WAITING).await;
    println!("{}", nanoseconds_on_a_core() - before);
}

/// Of this process, which has one thread.
fn nanoseconds_on_a_core() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn client(dir: &Path) -> LockClient {
    LockClient::builder(lock_file::backend(dir.join("locks"), FileOptions::new()).unwrap()).build().unwrap()
}

fn start(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env("BENCH_ROLE", role)
        .env("BENCH_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The numbers that a child printed, once it has ended well.
fn numbers(child: Child) -> Vec<u64> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}
