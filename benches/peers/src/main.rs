//! Locks in Redis beside bare commands and beside the crate `rslock` (no fence, no order), on one server, in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release
//! ```
//!
//! 64 tasks, each on a key of its own; then one task alone. Printed are cycles (take and give back) a second, and what client and
//! server spent of the processor on each.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_conformance::servers::Redis;
use lock_core::{LockClient, Result};
use lock_redis::redis::aio::MultiplexedConnection;
use lock_redis::redis::io::tcp::TcpSettings;
use lock_redis::redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Script, Value};
use lock_redis::{RedisOptions, redis};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(1_500);
const TTL: Duration = Duration::from_secs(3_600);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let server = Redis::start().await?;
    let ours = LockClient::builder(lock_redis::backend(&driver(&server), RedisOptions::new())?).ttl(TTL).build()?;
    ours.open().await?;
    let floor = connect(&server).await;
    let theirs = rslock::LockManager::from_clients(vec![driver(&server)]);
    for tasks in [64, 1] {
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            rates[0].push(
                measure(&server, "floor", tasks, |task| {
                    let floor = floor.clone();
                    let script = Arc::new(Script::new(COMPARE_AND_DELETE));
                    move || bare(floor.clone(), format!("floor-{task}"), script.clone())
                })
                .await?,
            );
            rates[1].push(
                measure(&server, "fencepost", tasks, |task| {
                    let lock = ours.mutex(format!("ours-{task}"));
                    move || {
                        let lock = lock.clone();
                        async move { lock?.acquire().await?.release().await.map(|_| ()) }
                    }
                })
                .await?,
            );
            rates[2].push(
                measure(&server, "rslock", tasks, |task| {
                    let theirs = theirs.clone();
                    move || {
                        let theirs = theirs.clone();
                        async move {
                            let lock = theirs.lock(format!("theirs-{task}").as_str(), TTL).await;
                            theirs.unlock(&lock.expect("a free key")).await;
                            Ok(())
                        }
                    }
                })
                .await?,
            );
        }
        let [floor, ours, theirs] = rates.map(|mut rates| {
            rates.sort_unstable_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        println!(
            "{tasks} tasks, medians: floor {floor:.0}, fencepost {ours:.0} ({:.2} of the floor, {:.2} of rslock), rslock {theirs:.0}\n",
            ours / floor,
            ours / theirs
        );
    }
    Ok(())
}

/// Cycles a second of so many tasks.
async fn measure<F, C>(server: &Redis, name: &str, tasks: usize, cycle: impl Fn(usize) -> F) -> Result<f64>
where
    F: Fn() -> C + Send + 'static,
    C: Future<Output = Result<()>> + Send,
{
    let (client, pid) = (std::process::id(), server.server()?.pid());
    let before = (cpu(client), cpu(pid));
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
    let cycles = f64::from(cycles);
    let rate = cycles / start.elapsed().as_secs_f64();
    let each = |before: f64, pid| (cpu(pid) - before) / cycles * 1e6;
    println!(
        "{name:>10}: {rate:>7.0} cycles/s; processor for each: client {:>5.1} µs, server {:>5.1} µs",
        each(before.0, client),
        each(before.1, pid)
    );
    Ok(rate)
}

/// Seconds of the processor that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn driver(server: &Redis) -> Client {
    Client::open(server.url()).expect("a URL of the driver's")
}

async fn connect(server: &Redis) -> MultiplexedConnection {
    let info = server.url().into_connection_info().expect("a URL of the driver's");
    let client = Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true))).expect("its settings");
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1024);
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

async fn bare(mut connection: MultiplexedConnection, key: String, script: Arc<Script>) -> Result<()> {
    const OWNER: &str = "00112233445566778899aabbccddeeff";
    let mut set = Cmd::new();
    set.arg("SET").arg(&key).arg(OWNER).arg("NX").arg("PX").arg(3_600_000);
    let answer: redis::RedisResult<Value> = connection.send_packed_command(&set).await;
    assert_eq!(answer.expect("an answer"), Value::Okay);
    let deleted: i64 = script.key(&key).arg(OWNER).invoke_async(&mut connection).await.expect("an answer");
    assert_eq!(deleted, 1);
    Ok(())
}
