//! What a lock in any server has to do for the command.

use std::process::Command;

use crate::lab::{Done, Lab, Running, eventually};

/// `fencepost --on URL run OPTIONS k -- sh -c SCRIPT`, in the lab's directory.
pub(crate) fn run(lab: &Lab, url: &str, options: &[&str], script: &str) -> Command {
    let mut command = lab.fencepost();
    command.args(["--on", url, "run"]).args(options).args(["k", "--", "sh", "-c", script]);
    command
}

/// Two runs, one after the other, under tokens that rise; and what a third one is told that does not wait.
pub(crate) fn runs_exclude_each_other(lab: &Lab, url: &str) -> Done {
    lab.make_gate("first");
    let script = "echo $FENCEPOST_TOKEN >> log; cat first.gate";
    let first = Running::start(&mut run(lab, url, &["--name", "the-holder"], script));
    eventually("the first to run", || !lab.log().is_empty());
    let busy = Done::from(run(lab, url, &["--try"], "true").output().unwrap());
    let second = Running::start(&mut run(lab, url, &[], "echo $FENCEPOST_TOKEN >> log"));
    lab.open_gate("first");
    assert_eq!((first.end().code(), second.end().code()), (0, 0));
    let tokens: Vec<u64> = lab.log().iter().map(|token| token.parse().unwrap()).collect();
    assert!(matches!(tokens[..], [first, second] if first < second), "{tokens:?}");
    busy
}
