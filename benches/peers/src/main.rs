//! Locks in Redis beside bare commands and beside the crate `rslock` (no fence, no order), on one server, in alternating rounds.
//!
//! ```sh
//! cd benches/peers && cargo run --release
//! ```
//!
//! 64 tasks, each on a key of its own; then one task alone. Printed are cycles (take and give back) a second, and what client and
//! server spent of the processor on each.

use fencepost_peers::{Bare, Peer, ROUNDS, TTL, connect, locked};
use lock_conformance::servers::Redis;
use lock_core::{LockClient, Result};
use lock_redis::RedisOptions;
use lock_redis::redis::Client;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let server = Redis::start().await?;
    let servers = [server.server()?.pid()];
    let ours =
        LockClient::builder(lock_redis::backend(&driver(&server), RedisOptions::new())?).ttl(TTL).build()?;
    ours.open().await?;
    let floor = connect(&server.url()).await;
    let theirs = rslock::LockManager::from_clients(vec![driver(&server)]);
    for tasks in [64, 1] {
        let mut peers = ["floor", "fencepost", "rslock"].map(Peer::new);
        let [commands, fencepost, rslock] = &mut peers;
        for _ in 0..ROUNDS {
            commands
                .plays(&servers, tasks, |task| {
                    let bare = Bare::new(floor.clone(), &format!("floor-{task}"));
                    move || bare.clone().cycle()
                })
                .await?;
            fencepost
                .plays(&servers, tasks, |task| {
                    let lock = ours.mutex(format!("ours-{task}")).expect("a key");
                    move || locked(lock.clone())
                })
                .await?;
            rslock
                .plays(&servers, tasks, |task| {
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
                .await?;
        }
        println!("{tasks} tasks, medians:");
        let [floor, ours, theirs] = peers.map(|peer| peer.median().rate);
        println!("fencepost: {:.2} of the floor, {:.2} of rslock\n", ours / floor, ours / theirs);
    }
    Ok(())
}

fn driver(server: &Redis) -> Client {
    Client::open(server.url()).expect("a URL of the driver's")
}
