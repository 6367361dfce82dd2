//! A lock in Redis: held by a server of its own, which can go away.

use std::process::Command;
use std::time::Duration;

use lock_conformance::servers::{Redis, RedisSetup, free_port};
use tokio::runtime::Runtime;

use crate::lab::{Done, Lab, Running, eventually, timed};

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

/// `fencepost --on URL run OPTIONS k -- sh -c SCRIPT`, in the lab's directory.
fn run(lab: &Lab, url: &str, options: &[&str], script: &str) -> Command {
    let mut command = lab.fencepost();
    command.args(["--on", url, "run"]).args(options).args(["k", "--", "sh", "-c", script]);
    command
}

#[test]
fn runs_exclude_each_other_and_tokens_rise() {
    let (lab, server) = (Lab::new(), Server::start());
    let url = server.redis.url();
    lab.make_gate("first");
    let script = "echo $FENCEPOST_TOKEN >> log; cat first.gate";
    let first = Running::start(&mut run(&lab, &url, &["--name", "the-holder"], script));
    eventually("the first to run", || !lab.log().is_empty());
    let busy = Done::from(run(&lab, &url, &["--try"], "true").output().unwrap());
    busy.assert_says(75, "held by the-holder");
    let second = Running::start(&mut run(&lab, &url, &[], "echo $FENCEPOST_TOKEN >> log"));
    lab.open_gate("first");
    assert_eq!((first.end().code(), second.end().code()), (0, 0));
    let tokens: Vec<u64> = lab.log().iter().map(|token| token.parse().unwrap()).collect();
    assert!(matches!(tokens[..], [first, second] if first < second), "{tokens:?}");
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
