//! A lock in Redis: held by a server of its own, which can go away.

use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, free_port};
use tokio::runtime::Runtime;

use crate::lab::{Done, Lab, Running, timed};
use crate::servers::{run, runs_exclude_each_other};

struct Server {
    redis: Redis,
    runtime: Runtime,
}

impl Server {
    /// As the probe wants it: nothing is warned of.
    fn start() -> Server {
        let runtime = Runtime::new().unwrap();
        let redis = runtime.block_on(RedisSetup::new().persistent().start()).unwrap();
        Server { redis, runtime }
    }
}

#[test]
fn runs_exclude_each_other_and_tokens_rise() {
    let (lab, server) = (Lab::new(), Server::start());
    runs_exclude_each_other(&lab, &server.redis.url()).assert_says(75, "held by the-holder");
}

#[test]
fn a_server_that_goes_away_ends_the_command_before_its_lease() {
    let (lab, server) = (Lab::new(), Server::start());
    let script = "echo up >> log; while :; do sleep 0.05; done";
    let held =
        Running::start(&mut run(&lab, &server.redis.url(), &["--ttl", "1s", "--grace", "100ms"], script));
    lab.wait_for("up");
    server.runtime.block_on(server.redis.kill()).unwrap();
    let (done, took) = timed(|| held.end());
    assert_eq!(done.code(), 70, "{done:?}");
    assert!(done.err.contains("lost \"k\"") && done.err.contains("its release failed"), "{done:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_server_that_is_not_there_is_69() {
    let (lab, port) = (Lab::new(), free_port().unwrap());
    let url = format!("redis://127.0.0.1:{}?connect_timeout=500ms", port.number());
    let done = Done::from(run(&lab, &url, &[], "true").output().unwrap());
    done.assert_says(69, &format!("redis://127.0.0.1:{}", port.number()));
}
