//! A lock in etcd: held by a server of its own, of whatever version the machine has.

use lock_conformance::servers::Etcd;
use tokio::runtime::Runtime;

use crate::lab::{Done, Lab};
use crate::servers::{run, runs_exclude_each_other};

fn start() -> (Runtime, Etcd) {
    let runtime = Runtime::new().unwrap();
    let etcd = runtime.block_on(Etcd::start()).unwrap();
    (runtime, etcd)
}

#[test]
fn runs_exclude_each_other_and_tokens_rise() {
    let (lab, (_runtime, etcd)) = (Lab::new(), start());
    let busy = runs_exclude_each_other(&lab, &format!("etcd://{}/locks", etcd.address()));
    // What the probe has to say of the server's version comes before that.
    assert_eq!(busy.code(), 75, "{busy:?}");
    assert!(busy.err.contains("held by the-holder"), "{busy:?}");
}

/// Strict mode refuses what the probe calls unsafe, and nothing else. Which of the two it is depends on the server's version.
#[test]
fn strict_refuses_a_server_with_known_faults() {
    let (lab, (runtime, etcd)) = (Lab::new(), start());
    let url = format!("etcd://{}?strict=true", etcd.address());
    let status = runtime.block_on(etcd.call("/v3/maintenance/status", &serde_json::json!({}))).unwrap();
    let version = status["version"].as_str().unwrap().to_owned();
    let done = Done::from(run(&lab, &url, &[], "echo ran >> log").output().unwrap());
    if version.starts_with("3.4.2") {
        assert_ne!(done.code(), 0, "{done:?}");
        assert!(done.err.contains("strict=true") && done.err.contains("15247"), "{done:?}");
        assert!(lab.log().is_empty());
    } else {
        assert_eq!(done.code(), 0, "{version}: {done:?}");
    }
}
