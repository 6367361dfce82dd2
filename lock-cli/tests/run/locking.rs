//! What the lock is for.

use std::time::Duration;

use crate::lab::{Lab, Running, eventually, guard_of, lives};

const SAY_ALL: &str = "echo $FENCEPOST_KEY $FENCEPOST_MODE $FENCEPOST_TOKEN";

#[test]
fn the_command_learns_its_lock_and_the_token_rises() {
    let lab = Lab::new();
    let mut last = 0;
    for _ in 0..3 {
        let done = lab.done(&["a key"], &["sh", "-c", SAY_ALL]);
        let token = done.out.trim().strip_prefix("a key exclusive ").unwrap().parse::<u64>().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    assert!(lab.done(&["--shared", "k"], &["sh", "-c", SAY_ALL]).out.starts_with("k shared "));
    let permits = ["--permits", "2", "--of", "5", "n"];
    assert!(lab.done(&permits, &["sh", "-c", SAY_ALL]).out.starts_with("n permits "));
}

#[test]
fn the_rest_of_the_environment_is_left_alone() {
    let lab = Lab::new();
    let mut command = lab.fencepost();
    command.env("FENCEPOST_URL", lab.url()).env("FENCEPOST_TOKEN", "of an outer run").env("OTHER", "a=b\nc");
    let script = "echo $FENCEPOST_URL; env | grep -c FENCEPOST_TOKEN; test \"$OTHER\" = 'a=b\nc'";
    let done = Running::start(command.args(["run", "k", "--", "sh", "-c", script])).end();
    assert_eq!((done.code(), done.out), (0, format!("{}\n1\n", lab.url())));
}

#[test]
fn runs_exclude_each_other_and_take_their_turns() {
    let lab = Lab::new();
    let first = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let mut others = Vec::new();
    for number in 1..=4 {
        let script = format!("echo {number} begins >> log; echo {number} ends >> log");
        others.push(lab.start(&["k"], &["sh", "-c", &script]));
        lab.wait_for_queue("k", number);
    }
    assert_eq!(lab.log(), ["first"]);
    lab.open_gate("first");
    assert_eq!(first.end().code(), 0);
    for other in others {
        assert_eq!(other.end().code(), 0);
    }
    let turns = (1..=4).flat_map(|number| [format!("{number} begins"), format!("{number} ends")]);
    let expected: Vec<_> = ["first".to_owned(), "first ends".to_owned()].into_iter().chain(turns).collect();
    assert_eq!(lab.log(), expected);
}

#[test]
fn shared_runs_run_together_and_keep_a_plain_one_out() {
    let lab = Lab::new();
    let one = lab.hold(&["--shared", "k"], "one");
    let two = lab.hold(&["--shared", "k"], "two");
    lab.wait_for("one");
    lab.wait_for("two");
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 75);
    let plain = lab.start(&["k"], &["sh", "-c", "echo plain >> log"]);
    lab.wait_for_queue("k", 1);
    lab.open_gate("one");
    lab.open_gate("two");
    assert_eq!((one.end().code(), two.end().code(), plain.end().code()), (0, 0, 0));
    assert_eq!(lab.log().last().map(String::as_str), Some("plain"));
}

#[test]
fn a_plain_run_keeps_shared_ones_out() {
    let lab = Lab::new();
    let plain = lab.hold(&["k"], "plain");
    lab.wait_for("plain");
    assert_eq!(lab.done(&["--try", "--shared", "k"], &["true"]).code(), 75);
    let shared = lab.start(&["--shared", "k"], &["sh", "-c", "echo shared >> log"]);
    lab.wait_for_queue("k", 1);
    lab.open_gate("plain");
    assert_eq!((plain.end().code(), shared.end().code()), (0, 0));
    assert_eq!(lab.log(), ["plain", "plain ends", "shared"]);
}

#[test]
fn permits_are_counted() {
    let lab = Lab::new();
    let one = lab.hold(&["--permits", "2", "--of", "3", "k"], "one");
    lab.wait_for("one");
    assert_eq!(lab.done(&["--try", "--permits", "2", "--of", "3", "k"], &["true"]).code(), 75);
    assert_eq!(lab.done(&["--try", "--of", "3", "k"], &["true"]).code(), 0, "one is left");
    lab.done(&["--try", "--of", "4", "k"], &["true"]).assert_says(64, "capacity of 3");
    lab.open_gate("one");
    assert_eq!(one.end().code(), 0);
}

#[test]
fn at_least_keeps_the_key_taken_after_the_end() {
    let lab = Lab::new();
    assert_eq!(lab.done(&["--at-least", "10m", "k"], &["true"]).code(), 0);
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 75);
    let state = lab.inspect("k");
    assert!(
        state.holders[0].fixed && state.holders[0].remaining > Some(Duration::from_secs(500)),
        "{state:?}"
    );
    assert_eq!(lab.done(&["--at-least", "200ms", "short"], &["true"]).code(), 0);
    assert_eq!(lab.done(&["short"], &["true"]).code(), 0, "a waiter gets it afterwards");
}

#[test]
fn at_least_keeps_the_key_taken_also_when_fencepost_is_killed() {
    let lab = Lab::new();
    let first = lab.start(&["--at-least", "10m", "k"], &["sh", "-c", "echo up >> log; exec sleep 1000"]);
    lab.wait_for("up");
    let guard = guard_of(first.pid());
    first.signal(rustix::process::Signal::KILL);
    eventually("the guard's end", || !lives(guard));
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 75);
}

#[test]
fn note_and_name_are_there_for_whoever_looks() {
    let lab = Lab::new();
    let _holder = lab.hold(&["--note", "release 7", "k"], "first");
    lab.wait_for("first");
    let state = lab.inspect("k");
    let holder = &state.holders[0];
    assert_eq!(holder.note.as_ref().map(fencepost::Note::as_str), Some("release 7"));
    assert_eq!(holder.info.as_ref().and_then(|info| info.name()), Some("sh"), "the command's name");
    lab.open_gate("first");
}

#[test]
fn a_waiter_that_was_stopped_for_too_long_waits_again() {
    let lab = Lab::new();
    let holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let waiter = lab.start(&["--ttl", "300ms", "k"], &["sh", "-c", "echo waiter >> log"]);
    lab.wait_for_queue("k", 1);
    waiter.signal(rustix::process::Signal::STOP);
    lab.wait_for_queue("k", 0);
    waiter.signal(rustix::process::Signal::CONT);
    lab.wait_for_queue("k", 1);
    lab.open_gate("first");
    assert_eq!((holder.end().code(), waiter.end().code()), (0, 0));
    eventually("the waiter's turn", || lab.log().len() == 3);
}

/// The head of the queue looks after the holder; whoever comes behind it looks after the head.
#[test]
fn a_head_that_is_gone_does_not_hide_the_holders_end() {
    use rustix::process::Signal;
    for signal in [Signal::KILL, Signal::STOP] {
        let lab = Lab::new();
        let holder = lab.hold(&["--ttl", "600ms", "k"], "first");
        lab.wait_for("first");
        let head = lab.start(&["--ttl", "600ms", "k"], &["sh", "-c", "echo head >> log"]);
        lab.wait_for_queue("k", 1);
        let next = lab.start(&["--ttl", "600ms", "k"], &["sh", "-c", "echo next >> log"]);
        lab.wait_for_queue("k", 2);
        head.signal(signal);
        holder.signal(Signal::KILL);
        assert_eq!(next.end().code(), 0, "{signal:?}");
        assert_eq!(lab.log(), ["first", "next"]);
    }
}
