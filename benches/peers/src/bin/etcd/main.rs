//! Locks in etcd beside bare puts and deletes, beside the driver's `LockClient`, and beside Go's `concurrency.Mutex`, on one server,
//! in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release --bin etcd                 # three minutes
//! cd benches/peers && cargo run --release --bin etcd -- --quick      # whether it runs: half a minute
//! ```
//!
//! `--one-key` has the 100,000 cycles on one key by one task, which takes two minutes more; with `--no-fsync` the server does not
//! wait for the disk. The Go program is in `go/etcd`; without `go` on the `PATH` it is left out. Compare within one run: machines
//! differ, and one machine differs from minute to minute.

mod lockers;
mod who;

use std::path::Path;
use std::time::{Duration, Instant};

use fencepost_peers::figures::{Board, LENGTHS, Shape, Way};
use fencepost_peers::program::Program;
use fencepost_peers::shapes;
use fencepost_peers::table::Table;
use fencepost_peers::{cpu, forced_to_disk, long, short};
use lock_conformance::servers::{Etcd, EtcdSetup};
use lock_core::{Lock, LockClient, Result};
use lock_etcd::etcd_client::Client;

use crate::lockers::{Aside, Bare, OURS, Theirs, connect, lease, ours};
use crate::who::{Who, targets};

/// As many tasks, and keys, as there are at most.
const TASKS: usize = 64;
const ON_ONE_KEY: usize = 16;

/// How much is done.
struct Plan {
    rounds: usize,
    /// For how long there are cycles of one shape.
    time: Duration,
    /// Each length of a wait equally often.
    short_waits: usize,
    long_waits: usize,
    cycles: usize,
    one_key: bool,
    fsync: bool,
}

/// Who takes part.
struct Peers {
    address: String,
    server: u32,
    /// The floor's connection, which the `LockClient` has too.
    bare: Client,
    leases: Vec<i64>,
    /// The first is the one that works alone.
    ours: Vec<LockClient>,
    go: Option<Program>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let plan = Plan::asked_for();
    // The harness spares its tests the disk; of two of the same argument the later one counts.
    let server = EtcdSetup::new().arguments([format!("--unsafe-no-fsync={}", !plan.fsync)]).start().await?;
    println!("etcd {}, alone; {}", server_version(&server).await?, disk(&plan, server.directory()));
    let mut peers = Peers::meet(&server).await?;
    let mut board = Board::default();
    for round in 1..=plan.rounds {
        println!("round {round} of {}", plan.rounds);
        peers.cycle(&plan, &mut board).await?;
        peers.hand_off(&plan, &mut board).await?;
    }
    println!("{} cycles on the same keys", plan.cycles);
    peers.run_long(&plan, &mut board).await?;
    println!("\n{}", Table { board: &board, rounds: plan.rounds, write: "put", targets: targets(&board) });
    if let Some(go) = peers.go {
        go.end().await;
    }
    Ok(())
}

impl Plan {
    fn asked_for() -> Plan {
        let mut plan = Plan {
            rounds: 5,
            time: Duration::from_millis(1_000),
            short_waits: 2 * LENGTHS,
            long_waits: 4,
            cycles: 100_000,
            one_key: false,
            fsync: true,
        };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--quick" => {
                    let time = Duration::from_millis(200);
                    plan =
                        Plan { rounds: 2, time, short_waits: LENGTHS, long_waits: 2, cycles: 10_000, ..plan };
                }
                "--one-key" => plan.one_key = true,
                "--no-fsync" => plan.fsync = false,
                _ => {
                    eprintln!("{argument}: there are --quick, --one-key and --no-fsync");
                    std::process::exit(2);
                }
            }
        }
        plan
    }
}

impl Peers {
    async fn meet(server: &Etcd) -> Result<Peers> {
        let address = server.address();
        let bare = connect(&address).await;
        let mut leases = Vec::new();
        for _ in 0..TASKS {
            leases.push(lease(&bare).await);
        }
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(ours(&address).await?);
        }
        let go = match Program::start("go/etcd", "go", &["run", ".", &address]).await {
            Ok(go) => Some(go),
            Err(reason) => {
                println!("Go's concurrency.Mutex is left out: {reason}");
                None
            }
        };
        Ok(Peers { address, server: server.server()?.pid(), bare, leases, ours: clients, go })
    }

    async fn cycle(&mut self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        for (shape, tasks, keys) in
            [(Shape::One, 1, "own"), (Shape::Many, TASKS, "own"), (Shape::Hot, ON_ONE_KEY, "same")]
        {
            let is_hot = shape == Shape::Hot;
            let name = |task: usize| if is_hot { "hot".to_owned() } else { task.to_string() };
            if !is_hot {
                let floors = self.floors(tasks);
                board.cycled(shape, Who::Floor, shapes::cycles(floors, plan.time, self.server).await);
            }
            let locks = (0..tasks).map(|task| self.ours[0].mutex(name(task))).collect::<Result<Vec<_>>>()?;
            board.cycled(shape, Who::Ours, shapes::cycles(locks, plan.time, self.server).await);
            if is_hot {
                let locks = (0..tasks).map(|task| self.ours[task % self.ours.len()].mutex("hot"));
                let locks = locks.collect::<Result<Vec<Lock>>>()?;
                board.cycled(shape, Who::OursApart, shapes::cycles(locks, plan.time, self.server).await);
            }
            let theirs = (0..tasks).map(|task| self.theirs(&name(task), task)).collect();
            board.cycled(shape, Who::LockClient, shapes::cycles(theirs, plan.time, self.server).await);
            let Some(go) = &mut self.go else { continue };
            for (who, what) in [(Who::GoFloor, "floor"), (Who::GoMutex, "mutex")] {
                if is_hot && who == Who::GoFloor {
                    continue;
                }
                let before = cpu(self.server);
                let start = Instant::now();
                let mut cycles = go.cycles(what, tasks, keys, plan.time.as_millis()).await;
                let all = cycles.rate * start.elapsed().as_secs_f64();
                cycles.server = (cpu(self.server) - before) / all * 1e6;
                board.cycled(shape, who, cycles);
            }
        }
        Ok(())
    }

    async fn hand_off(&mut self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let floor = self.floor("beside");
        for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
            let is_long = way == Way::Long;
            let samples = if is_long { plan.long_waits } else { plan.short_waits };
            let pause = if is_long { long } else { short };
            for (who, other) in [(Who::Ours, 0), (Who::OursApart, 1)] {
                let pair = [self.ours[0].mutex("hand-off")?, self.ours[other].mutex("hand-off")?];
                let beside = Aside::new(floor.clone(), format!("{OURS}/"));
                let measured = shapes::hand_offs(pair, beside, samples, pause);
                board.handed_off(way, who, self.around(way, measured).await);
            }
            let pair = [0, 1].map(|task| self.theirs("hand-off", task));
            let beside = Aside::new(floor.clone(), "theirs/hand-off/");
            let measured = shapes::hand_offs(pair, beside, samples, pause);
            board.handed_off(way, Who::LockClient, self.around(way, measured).await);
            let Some(go) = &mut self.go else { continue };
            let wait = if is_long { "long" } else { "short" };
            let around = if way == Way::ShortAmongWriters { "writers" } else { "quiet" };
            board.handed_off(way, Who::GoMutex, go.hand_offs(samples, wait, around).await);
        }
        Ok(())
    }

    async fn around<T>(&self, way: Way, measured: impl Future<Output = T>) -> T {
        match way {
            Way::ShortAmongWriters => {
                shapes::among_writers(Aside::new(self.floor("other"), ""), measured).await
            }
            Way::Short | Way::Long => measured.await,
        }
    }

    /// By a client of its own, as of a process that has just begun.
    async fn run_long(&self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let keys = if plan.one_key { 1 } else { TASKS };
        let client = ours(&self.address).await?;
        let locks = (0..keys).map(|key| client.mutex(format!("long-{key}"))).collect::<Result<_>>()?;
        board.courses.push(shapes::course(locks, keys, self.floors(keys), plan.cycles).await);
        Ok(())
    }

    fn floors(&self, tasks: usize) -> Vec<Bare> {
        (0..tasks).map(|task| self.floor(&task.to_string())).collect()
    }

    /// All with one lease, as the holds of one session are.
    fn floor(&self, key: &str) -> Bare {
        Bare::new(&self.bare, format!("floor/{key}"), self.leases[0])
    }

    fn theirs(&self, name: &str, task: usize) -> Theirs {
        Theirs::new(&self.bare, format!("theirs/{name}"), self.leases[task])
    }
}

async fn server_version(server: &Etcd) -> Result<String> {
    let status = server.call("/v3/maintenance/status", &serde_json::json!({})).await?;
    Ok(status["version"].as_str().unwrap_or("of no version").to_owned())
}

/// What the server waits for with each write.
fn disk(plan: &Plan, directory: &Path) -> String {
    if !plan.fsync {
        return "does not wait for the disk".to_owned();
    }
    match forced_to_disk(directory) {
        Ok(time) => format!("waits for the disk (fdatasync of 512 bytes there: {time:.0} µs)"),
        Err(error) => format!("waits for the disk ({error})"),
    }
}
