//! Locks in Postgres beside bare commits, beside the same function called once for each claim through a pool, and beside advisory
//! locks, on one server, in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release --bin postgres                 # two minutes
//! cd benches/peers && cargo run --release --bin postgres -- --quick      # whether it runs: half a minute
//! ```
//!
//! Compare within one run: machines differ, and one machine differs from minute to minute.

mod lockers;
mod sizes;
mod who;

use std::path::Path;
use std::time::Duration;

use fencepost_peers::figures::{Board, LENGTHS, Shape, Way};
use fencepost_peers::shapes::{course, cycles, hand_offs};
use fencepost_peers::table::Table;
use fencepost_peers::{forced_to_disk, long, shapes, short};
use lock_conformance::servers::{Postgres, PostgresSetup};
use lock_core::{LockClient, Result};

use crate::lockers::{Advisory, Apart, Aside, Bare, Ours, Select, Single, TABLE, Through, ours};
use crate::sizes::Sizes;
use crate::who::{Who, targets};

/// As many tasks as there are at most.
const TASKS: usize = 64;
const ON_ONE_KEY: usize = 16;
const POOL: u32 = 16;

/// Keys of the long run: few, on which tasks wait for each other, and many.
const FEW: usize = 4;
const MANY: usize = 1_024;

const HELP: &str = "\
Locks in Postgres beside bare commits, a pool and advisory locks, on one server that it starts.

  --quick       whether it runs: 2 short rounds
  --rounds N    how often each has its turn (9); 0 leaves the cycles on the same keys alone
  --cycles N    how many cycles on the same keys, half of them on few and half on many (20000)
  --no-fsync    the server does not wait for the disk";

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
    url: String,
    server: u32,
    /// The floor's.
    bare: Through,
    /// What is asked beside a hand-off.
    aside: Through,
    pool: Through,
    single: Single,
    pooled: Single,
    /// A connection for each task.
    own: Vec<Through>,
    /// The first is the one that works alone.
    ours: Vec<LockClient>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let plan = Plan::asked_for();
    let setup = PostgresSetup::new().setting("max_connections", "200");
    let server = if plan.fsync { setup.durable() } else { setup }.start().await?;
    println!("PostgreSQL {}; {}", server.run("SHOW server_version").await?, disk(&plan, server.directory()));
    println!("load before: {}", load());
    let peers = Peers::meet(&server).await?;
    let (mut board, mut sizes) = (Board::default(), Sizes::default());
    for round in 1..=plan.rounds {
        println!("round {round} of {}", plan.rounds);
        peers.cycle(&plan, &mut board).await?;
        peers.hand_off(&plan, &mut board).await?;
    }
    println!("{} cycles on the same keys", plan.cycles);
    peers.run_long(&plan, &server, &mut board, &mut sizes).await?;
    println!("load after: {}", load());
    let targets = targets(&board);
    println!("\n{}{sizes}", Table { board: &board, rounds: plan.rounds, write: "commit", targets });
    if Ours::refused() > 0 {
        println!(
            "\n{} releases of ours were refused for the time being, and went on by themselves",
            Ours::refused()
        );
    }
    Ok(())
}

impl Plan {
    fn asked_for() -> Plan {
        let mut plan = Plan {
            rounds: 9,
            time: Duration::from_millis(400),
            short_waits: 2 * LENGTHS,
            long_waits: 2,
            cycles: 20_000,
            fsync: true,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || match arguments.next().map(|number| number.parse()) {
                Some(Ok(number)) => number,
                _ => refuse(&format!("{argument} takes a number")),
            };
            match argument.as_str() {
                "--quick" => {
                    let time = Duration::from_millis(200);
                    plan =
                        Plan { rounds: 2, time, short_waits: LENGTHS, long_waits: 1, cycles: 4_000, ..plan };
                }
                "--rounds" => plan.rounds = number(),
                "--cycles" => plan.cycles = number(),
                "--no-fsync" => plan.fsync = false,
                "--help" | "-h" => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                _ => refuse(&format!("{argument}: --help says what there is")),
            }
        }
        plan
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2)
}

impl Peers {
    async fn meet(server: &Postgres) -> Result<Peers> {
        let url = server.url();
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(ours(&url).await?);
        }
        server.run(TABLE).await?;
        let bare = Through::connection(&url).await;
        let pool = Through::pool(&url, POOL).await;
        let mut own = Vec::new();
        for _ in 0..TASKS {
            own.push(Through::connection(&url).await);
        }
        Ok(Peers {
            server: server.server()?.pid(),
            aside: Through::connection(&url).await,
            single: Single::open(&bare).await,
            pooled: Single::open(&pool).await,
            bare,
            pool,
            own,
            ours: clients,
            url,
        })
    }

    async fn cycle(&self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let (time, server) = (plan.time, self.server);
        let floor = vec![Bare::new(&self.bare, 0)];
        board.cycled(Shape::One, Who::Floor, cycles(floor, time, server).await);
        let apart = vec![Apart(Bare::new(&self.bare, 0))];
        board.cycled(Shape::One, Who::Apart, cycles(apart, time, server).await);
        let ours = vec![self.lock(0, "alone")?];
        board.cycled(Shape::One, Who::Ours, cycles(ours, time, server).await);
        let single = vec![self.single.on("single")];
        board.cycled(Shape::One, Who::Single, cycles(single, time, server).await);
        let select = vec![Select(self.bare.clone())];
        board.cycled(Shape::One, Who::Select, cycles(select, time, server).await);
        let advisory = vec![Advisory::new(&self.bare, 0)];
        board.cycled(Shape::One, Who::Advisory, cycles(advisory, time, server).await);

        board.cycled(Shape::Many, Who::Floor, cycles(self.floors(TASKS), time, server).await);
        let ours = (0..TASKS).map(|task| self.lock(0, &format!("own-{task}"))).collect::<Result<_>>()?;
        board.cycled(Shape::Many, Who::Ours, cycles(ours, time, server).await);
        let pooled = (0..TASKS).map(|task| self.pooled.on(&format!("pooled-{task}"))).collect();
        board.cycled(Shape::Many, Who::Single, cycles(pooled, time, server).await);
        board.cycled(
            Shape::Many,
            Who::Advisory,
            cycles(self.advisory(TASKS, |task| task), time, server).await,
        );

        for (who, clients) in [(Who::Ours, 1), (Who::OursApart, self.ours.len())] {
            let locks = (0..ON_ONE_KEY).map(|task| self.lock(task % clients, "hot"));
            board.cycled(Shape::Hot, who, cycles(locks.collect::<Result<_>>()?, time, server).await);
        }
        let advisory = self.advisory(ON_ONE_KEY, |_| 0);
        board.cycled(Shape::Hot, Who::Advisory, cycles(advisory, time, server).await);
        Ok(())
    }

    async fn hand_off(&self, plan: &Plan, board: &mut Board<Who>) -> Result<()> {
        let beside = Aside::new(Bare::new(&self.aside, 0));
        for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
            let is_long = way == Way::Long;
            let samples = if is_long { plan.long_waits } else { plan.short_waits };
            let pause = if is_long { long } else { short };
            for (who, other) in [(Who::Ours, 0), (Who::OursApart, 1)] {
                let pair = [self.lock(0, "hand-off")?, self.lock(other, "hand-off")?];
                let measured = hand_offs(pair, beside.clone(), samples, pause);
                board.handed_off(way, who, self.around(way, measured).await);
            }
            let pair = [0, 1].map(|task| Advisory::new(&self.own[task], 0));
            let measured = hand_offs(pair, beside.clone(), samples, pause);
            board.handed_off(way, Who::Advisory, self.around(way, measured).await);
        }
        Ok(())
    }

    async fn around<T>(&self, way: Way, measured: impl Future<Output = T>) -> T {
        match way {
            Way::ShortAmongWriters => {
                shapes::among_writers(Aside::new(Bare::new(&self.bare, 1)), measured).await
            }
            Way::Short | Way::Long => measured.await,
        }
    }

    /// By a client of its own, as of a process that has just begun.
    async fn run_long(
        &self,
        plan: &Plan,
        server: &Postgres,
        board: &mut Board<Who>,
        sizes: &mut Sizes,
    ) -> Result<()> {
        let client = ours(&self.url).await?;
        sizes.look("before", server).await?;
        for (keys, tasks, when) in [(FEW, ON_ONE_KEY, "after few keys"), (MANY, TASKS, "after many keys")] {
            let locks = |task: usize| {
                let own = (0..keys).filter(|key| key % tasks == task % keys);
                own.map(|key| client.mutex(format!("long-{keys}-{key}"))).collect::<Result<_>>()
            };
            let lockers = (0..tasks).map(|task| locks(task).map(Ours::new)).collect::<Result<_>>()?;
            board.courses.push(course(lockers, keys, self.floors(tasks), plan.cycles / 2).await);
            sizes.look(when, server).await?;
        }
        Ok(())
    }

    fn lock(&self, client: usize, key: &str) -> Result<Ours> {
        Ok(Ours::new(vec![self.ours[client].mutex(key)?]))
    }

    fn floors(&self, tasks: usize) -> Vec<Bare> {
        (0..tasks).map(|task| Bare::new(&self.pool, task)).collect()
    }

    fn advisory(&self, tasks: usize, key: fn(usize) -> usize) -> Vec<Advisory> {
        (0..tasks).map(|task| Advisory::new(&self.own[task], key(task))).collect()
    }
}

/// How much else the machine has to do: over 1, 5 and 15 minutes.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(", ")
}

/// What the server waits for with each commit that is waited for.
fn disk(plan: &Plan, directory: &Path) -> String {
    if !plan.fsync {
        return "does not wait for the disk".to_owned();
    }
    match forced_to_disk(directory) {
        Ok(time) => format!("waits for the disk (fdatasync of 512 bytes there: {time:.0} µs)"),
        Err(error) => format!("waits for the disk ({error})"),
    }
}
