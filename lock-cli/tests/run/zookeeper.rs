//! A lock in ZooKeeper: held by a server of its own, of whatever version the machine has.

use lock_conformance::servers::ZooKeeper;
use tokio::runtime::Runtime;

use crate::lab::{Done, Lab};
use crate::servers::{run, runs_exclude_each_other};

fn start() -> (Runtime, ZooKeeper, String) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(ZooKeeper::start()).unwrap();
    let url = format!("zookeeper://{}/locks?tick={}ms", server.address(), server.tick().as_millis());
    (runtime, server, url)
}

#[test]
fn runs_exclude_each_other_and_tokens_rise() {
    let (lab, (_runtime, _server, url)) = (Lab::new(), start());
    let busy = runs_exclude_each_other(&lab, &url);
    // What the probe has to say of the server's version comes before that.
    assert_eq!(busy.code(), 75, "{busy:?}");
    assert!(busy.err.contains("held by the-holder"), "{busy:?}");
}

/// Whoever reaches such a server may end every lock in it.
#[test]
fn strict_refuses_what_is_open_to_everybody() {
    let (lab, (_runtime, _server, url)) = (Lab::new(), start());
    let done = Done::from(run(&lab, &format!("{url}&strict=true"), &[], "echo ran >> log").output().unwrap());
    assert_ne!(done.code(), 0, "{done:?}");
    assert!(done.err.contains("strict=true") && done.err.contains("open to everybody"), "{done:?}");
    assert!(lab.log().is_empty());
}
