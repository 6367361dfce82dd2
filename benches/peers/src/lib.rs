//! What the comparisons share: their rounds, what a cycle costs, and bare commands.

pub mod figures;
pub mod program;
pub mod shapes;
pub mod table;

use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_core::{Lock, Result};
use lock_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use lock_redis::redis::io::tcp::TcpSettings;
use lock_redis::redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Script, Value};

use crate::figures::{LENGTHS, at, micros};

/// How often each has its turn.
pub const ROUNDS: usize = 5;
/// How long nobody needs to renew anything.
pub const TTL: Duration = Duration::from_secs(3_600);

const TIME: Duration = Duration::from_millis(1_500);

/// One of those that are compared.
pub struct Peer {
    name: &'static str,
    rounds: Vec<Round>,
}

/// What came of a round, or of several.
#[derive(Clone, Copy)]
pub struct Round {
    /// Cycles a second.
    pub rate: f64,
    /// What each cycle took of the processor, in microseconds.
    client: f64,
    servers: f64,
}

impl Peer {
    pub fn new(name: &'static str) -> Peer {
        Peer { name, rounds: Vec::new() }
    }

    /// So many tasks do one cycle after the other, until the time of a round is over.
    pub async fn plays<F, C>(
        &mut self,
        servers: &[u32],
        tasks: usize,
        cycle: impl Fn(usize) -> F,
    ) -> Result<()>
    where
        F: Fn() -> C + Send + 'static,
        C: Future<Output = Result<()>> + Send,
    {
        let cpu_of_all = || (cpu(std::process::id()), servers.iter().map(|pid| cpu(*pid)).sum::<f64>());
        let before = cpu_of_all();
        let start = Instant::now();
        let working: Vec<_> = (0..tasks)
            .map(|task| {
                let cycle = cycle(task);
                tokio::spawn(async move {
                    let mut cycles = 0_u32;
                    while start.elapsed() < TIME {
                        cycle().await?;
                        cycles += 1;
                    }
                    Ok::<_, lock_core::Error>(cycles)
                })
            })
            .collect();
        let mut cycles = 0_u32;
        for work in working {
            cycles += work.await.expect("no panic")?;
        }
        let (cycles, time, after) = (f64::from(cycles), start.elapsed(), cpu_of_all());
        let each = |before: f64, after: f64| (after - before) / cycles * 1e6;
        let round = Round {
            rate: cycles / time.as_secs_f64(),
            client: each(before.0, after.0),
            servers: each(before.1, after.1),
        };
        self.says(&round);
        self.rounds.push(round);
        Ok(())
    }

    /// The medians of its rounds, each figure on its own.
    pub fn median(&self) -> Round {
        let median = |figure: fn(&Round) -> f64| {
            let mut figures: Vec<_> = self.rounds.iter().map(figure).collect();
            figures.sort_unstable_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let (rate, client) = (median(|round| round.rate), median(|round| round.client));
        let round = Round { rate, client, servers: median(|round| round.servers) };
        self.says(&round);
        round
    }

    fn says(&self, Round { rate, client, servers }: &Round) {
        println!(
            "{:>14}: {rate:>7.0} cycles/s; processor for each: client {client:>5.1} µs, server {servers:>5.1} µs",
            self.name
        );
    }
}

/// Seconds of the processor that a process has used.
pub fn cpu(pid: u32) -> f64 {
    ticks(&stat(pid), 2)
}

/// The same of a server that has a process for each connection: with its children, also those that have ended.
pub fn cpu_of_all(pid: u32) -> f64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let stats = numbers.filter(|number| *number != pid).map(stat);
    let is_child = |stat: &Vec<String>| stat.get(1).is_some_and(|parent| *parent == pid.to_string());
    ticks(&stat(pid), 4) + stats.filter(is_child).map(|stat| ticks(&stat, 2)).sum::<f64>()
}

/// Of itself are the first two, of its children that have ended the next.
fn ticks(stat: &[String], kinds: usize) -> f64 {
    stat.iter().skip(11).take(kinds).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// From its state on.
fn stat(pid: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').map(str::to_owned).collect()
}

/// How long a waiter waits: 0 to 7 ms, in turns.
pub fn short(sample: usize) -> Duration {
    Duration::from_millis((sample % LENGTHS) as u64)
}

/// The same: so long that whoever looks now and then has looked.
pub fn long(_: usize) -> Duration {
    Duration::from_millis(300)
}

/// What it takes to write 512 bytes to the disk below a directory, in microseconds: into room that the file already has, as servers do.
pub fn forced_to_disk(directory: &Path) -> std::io::Result<f64> {
    const PIECE: [u8; 512] = [1; 512];
    let path = directory.join("forced");
    let file = std::fs::File::create(&path)?;
    file.write_all_at(&[0; 1 << 16], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for piece in 0..100 {
        let start = Instant::now();
        file.write_all_at(&PIECE, piece * PIECE.len() as u64)?;
        file.sync_data()?;
        times.push(micros(start.elapsed()));
    }
    std::fs::remove_file(path)?;
    Ok(at(&times, 500))
}

/// A cycle of ours.
pub async fn locked(lock: Lock) -> Result<()> {
    lock.acquire().await?.release().await.map(|_| ())
}

/// As our own connections are set up.
pub fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// One connection for all tasks.
pub async fn connect(url: &str) -> MultiplexedConnection {
    let info = url.into_connection_info().expect("a URL of the driver's");
    let client = Client::open(info.set_tcp_settings(tcp())).expect("its settings");
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1024);
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

/// Bare commands on one key: `SET NX PX`, and a script that compares and deletes.
#[derive(Clone)]
pub struct Bare<C> {
    connection: C,
    key: Arc<str>,
    script: Arc<Script>,
}

impl<C: ConnectionLike> Bare<C> {
    pub fn new(connection: C, key: &str) -> Bare<C> {
        Bare { connection, key: key.into(), script: Arc::new(Script::new(COMPARE_AND_DELETE)) }
    }

    pub async fn cycle(mut self) -> Result<()> {
        const OWNER: &str = "00112233445566778899aabbccddeeff";
        let mut set = Cmd::new();
        set.arg("SET").arg(&*self.key).arg(OWNER).arg("NX").arg("PX").arg(3_600_000);
        let answer = self.connection.req_packed_command(&set).await.expect("an answer");
        assert_eq!(answer, Value::Okay);
        let mut give_back = self.script.key(&*self.key);
        give_back.arg(OWNER);
        assert_eq!(give_back.invoke_async(&mut self.connection).await, Ok(1));
        Ok(())
    }
}

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
