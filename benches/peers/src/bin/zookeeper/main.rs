//! Locks in ZooKeeper beside bare nodes that are created and deleted, beside the driver's `Client::lock`, and beside Curator's
//! `InterProcessMutex`, on one server, in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release --bin zookeeper                 # two minutes
//! cd benches/peers && cargo run --release --bin zookeeper -- --quick      # whether it runs: half a minute
//! ```
//!
//! With `--no-fsync` the server does not wait for the disk. Curator's program is in `java/curator`; without `mvn` on the `PATH` it is
//! left out. Compare within one run: machines differ, and one machine differs from minute to minute.

mod lockers;
mod who;

use std::path::Path;
use std::time::{Duration, Instant};

use fencepost_peers::figures::{Board, LENGTHS, Shape, Way};
use fencepost_peers::program::Program;
use fencepost_peers::shapes;
use fencepost_peers::table::Table;
use fencepost_peers::{cpu, forced_to_disk, long, short};
use lock_conformance::servers::{ZooKeeper, ZooKeeperSetup};
use lock_core::{Lock, LockClient, Result};
use lock_zookeeper::zookeeper_client::Client;

use crate::lockers::{Aside, Bare, Dropped, OURS, Theirs, Writer, connect, ours};
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
    fsync: bool,
}

/// Who takes part.
struct Peers {
    server: ZooKeeper,
    /// The floor's session, which `Client::lock` has too.
    bare: Client,
    /// The first is the one that works alone.
    ours: Vec<LockClient>,
    curator: Option<Program>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let plan = Plan::asked_for();
    // Of two lines of the same name the later one counts.
    let fsync = if plan.fsync { "yes" } else { "no" };
    let server = ZooKeeperSetup::new().in_earnest().setting("forceSync", fsync).start().await?;
    let version = server.asked("srvr").await?;
    println!("{}; {}", version.lines().next().unwrap_or_default(), disk(&plan, server.directory()));
    let mut peers = Peers::meet(server).await?;
    let mut board = Board::default();
    // A virtual machine that has just begun is slow for a while.
    peers.cycle(&Plan { time: Duration::from_secs(1), ..plan }, &mut Board::default()).await?;
    for round in 1..=plan.rounds {
        println!("round {round} of {}", plan.rounds);
        peers.cycle(&plan, &mut board).await?;
        peers.hand_off(&plan, &mut board).await?;
    }
    println!("{} cycles on the same keys", plan.cycles);
    peers.run_long(&plan, &mut board).await?;
    println!(
        "\n{}",
        Table { board: &board, rounds: plan.rounds, write: "creation", targets: targets(&board) }
    );
    if let Some(curator) = peers.curator {
        curator.end().await;
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
            cycles: 50_000,
            fsync: true,
        };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--quick" => {
                    let time = Duration::from_millis(200);
                    plan =
                        Plan { rounds: 2, time, short_waits: LENGTHS, long_waits: 2, cycles: 10_000, ..plan };
                }
                "--no-fsync" => plan.fsync = false,
                _ => {
                    eprintln!("{argument}: there are --quick and --no-fsync");
                    std::process::exit(2);
                }
            }
        }
        plan
    }
}

impl Peers {
    async fn meet(server: ZooKeeper) -> Result<Peers> {
        let address = server.address();
        let bare = connect(&address).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(ours(&address, server.tick()).await?);
        }
        let exec = ["-q", "-B", "compile", "exec:java", &format!("-Dexec.args={address}")];
        let curator = match Program::start("java/curator", "mvn", &exec).await {
            Ok(curator) => Some(curator),
            Err(reason) => {
                println!("Curator's InterProcessMutex is left out: {reason}");
                None
            }
        };
        Ok(Peers { server, bare, ours: clients, curator })
    }

    async fn cycle(&mut self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let server = self.server.server()?.pid();
        for (shape, tasks, keys) in
            [(Shape::One, 1, "own"), (Shape::Many, TASKS, "own"), (Shape::Hot, ON_ONE_KEY, "same")]
        {
            let is_hot = shape == Shape::Hot;
            let name = |task: usize| if is_hot { "hot".to_owned() } else { task.to_string() };
            if !is_hot {
                let floors = self.floors(tasks);
                board.cycled(shape, Who::Floor, shapes::cycles(floors, plan.time, server).await);
            }
            let locks = (0..tasks).map(|task| self.ours[0].mutex(name(task))).collect::<Result<Vec<_>>>()?;
            board.cycled(shape, Who::Ours, shapes::cycles(locks, plan.time, server).await);
            if is_hot {
                let locks = (0..tasks).map(|task| self.ours[task % self.ours.len()].mutex("hot"));
                let locks = locks.collect::<Result<Vec<Lock>>>()?;
                board.cycled(shape, Who::OursApart, shapes::cycles(locks, plan.time, server).await);
            }
            let locks = (0..tasks).map(|task| self.ours[0].mutex(name(task)).map(Dropped));
            let locks = locks.collect::<Result<Vec<_>>>()?;
            board.cycled(shape, Who::OursDropped, shapes::cycles(locks, plan.time, server).await);
            for (who, is_awaited) in [(Who::ClientLock, true), (Who::ClientLockDropped, false)] {
                let theirs = (0..tasks).map(|task| self.theirs(&name(task), is_awaited)).collect();
                board.cycled(shape, who, shapes::cycles(theirs, plan.time, server).await);
            }
            let Some(curator) = &mut self.curator else { continue };
            for (who, what) in [(Who::CuratorFloor, "floor"), (Who::Curator, "mutex")] {
                if is_hot && who == Who::CuratorFloor {
                    continue;
                }
                let before = cpu(server);
                let start = Instant::now();
                let mut cycles = curator.cycles(what, tasks, keys, plan.time.as_millis()).await;
                let all = cycles.rate * start.elapsed().as_secs_f64();
                cycles.server = (cpu(server) - before) / all * 1e6;
                board.cycled(shape, who, cycles);
            }
        }
        Ok(())
    }

    async fn hand_off(&mut self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
            let is_long = way == Way::Long;
            let samples = if is_long { plan.long_waits } else { plan.short_waits };
            let pause = if is_long { long } else { short };
            for (who, other) in [(Who::Ours, 0), (Who::OursApart, 1)] {
                let pair = [self.ours[0].mutex("hand-off")?, self.ours[other].mutex("hand-off")?];
                let beside = Aside::new(&self.bare, format!("/{OURS}/locks/hand-off"));
                let measured = shapes::hand_offs(pair, beside, samples, pause);
                board.handed_off(way, who, self.around(way, measured).await);
            }
            let pair = [0, 1].map(|_| self.theirs("hand-off", true));
            let beside = Aside::new(&self.bare, "/theirs/hand-off");
            let measured = shapes::hand_offs(pair, beside, samples, pause);
            board.handed_off(way, Who::ClientLock, self.around(way, measured).await);
        }
        Ok(())
    }

    async fn around<T>(&self, way: Way, measured: impl Future<Output = T>) -> T {
        match way {
            Way::ShortAmongWriters => shapes::among_writers(Writer(self.bare.clone()), measured).await,
            Way::Short | Way::Long => measured.await,
        }
    }

    /// By a client of its own, as of a process that has just begun.
    async fn run_long(&self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let client = ours(&self.server.address(), self.server.tick()).await?;
        let locks = (0..TASKS).map(|key| client.mutex(format!("long-{key}"))).collect::<Result<_>>()?;
        board.courses.push(shapes::course(locks, TASKS, self.floors(TASKS), plan.cycles).await);
        Ok(())
    }

    fn floors(&self, tasks: usize) -> Vec<Bare> {
        (0..tasks).map(|task| Bare::new(&self.bare, format!("/floor/{task}"))).collect()
    }

    fn theirs(&self, name: &str, is_awaited: bool) -> Theirs {
        Theirs::new(&self.bare, format!("/theirs/{name}"), is_awaited)
    }
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
