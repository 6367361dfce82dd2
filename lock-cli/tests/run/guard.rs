//! The guard process: what becomes of the command when something happens to it.

use rustix::process::{Signal, kill_process};
use std::time::Duration;

use crate::ending::{FAMILY, Family, STUBBORN, assert_alone, scene};
use crate::lab::{Lab, Running, children, eventually, group, guard_of, lives, state};

#[test]
fn a_killed_guard_is_noticed_and_the_command_ended() {
    let lab = Lab::new();
    let (first, family, next) = scene(&lab, &["--grace", "300ms", "k"], STUBBORN);
    kill_process(guard_of(first.pid()), Signal::KILL).unwrap();
    first.end().assert_says(71, "the guard process was killed");
    assert_alone(&lab, next);
    assert!(family.is_gone());
}

#[test]
fn a_killed_guard_leaves_nobody_who_only_changed_groups() {
    let child = "echo $$ > child; sleep 1000 & echo $! > grandchild; wait";
    for child in [child.to_owned(), format!("trap \"\" TERM; {child}; while :; do wait; done")] {
        let lab = Lab::new();
        let command = format!("timeout 1000 sh -c '{child}' & echo $$ > leader; wait");
        let (first, family, next) = scene(&lab, &["--grace", "300ms", "k"], &command);
        kill_process(guard_of(first.pid()), Signal::KILL).unwrap();
        first.end().assert_says(71, "the guard process was killed");
        assert_alone(&lab, next);
        assert!(family.is_gone());
    }
}

/// A member that is dead and that its parent does not reap: one that left the session, and is no shell any more.
const NEVER_REAPED: &str = "sh -c 'p=$$; (until grep -q sleep /proc/$p/comm; do :; done) & echo $! > dead; echo $$ > daemon; exec setsid sleep 1000' & echo $$ > leader; wait";

#[test]
fn the_dead_are_not_waited_for() {
    for kill_guard in [false, true] {
        let lab = Lab::new();
        let first = lab.start(&["--grace", "300ms", "k"], &["sh", "-c", NEVER_REAPED]);
        let (dead, daemon, leader) = (lab.pid("dead"), lab.pid("daemon"), lab.pid("leader"));
        eventually("a zombie", || state(dead) == Some('Z') && group(daemon) == Some(daemon));
        if kill_guard {
            kill_process(guard_of(first.pid()), Signal::KILL).unwrap();
        } else {
            kill_process(leader, Signal::TERM).unwrap();
        }
        assert_eq!(first.end().code(), if kill_guard { 71 } else { 128 + 15 });
        assert_eq!(state(dead), Some('Z'), "nobody reaped it");
        kill_process(daemon, Signal::KILL).unwrap();
    }
}

#[test]
fn who_was_there_before_the_guard_is_left_alone() {
    let lab = Lab::new();
    let script = format!(
        "timeout 1000 sleep 1000 & echo $! > stranger; exec {} --on {} run k -- sh -c \"$0\"",
        env!("CARGO_BIN_EXE_fencepost"),
        lab.url()
    );
    let first = Running::start(
        std::process::Command::new("sh").args(["-c", &script, FAMILY]).current_dir(lab.path("")),
    );
    let (stranger, family) = (lab.pid("stranger"), Family::born(&lab));
    eventually("a group of its own", || group(stranger) == Some(stranger));
    let guard = children(first.pid()).into_iter().find(|&child| child != stranger).unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    first.end().assert_says(71, "the guard process was killed");
    assert!(family.is_gone());
    assert!(lives(stranger));
    kill_process(stranger, Signal::TERM).unwrap();
}

/// While a command is looked for along a search path as long as this, each step of it a thousand steps, its guard has
/// told nobody of it.
#[test]
fn a_guard_that_is_killed_while_it_starts_the_command_leaves_nothing_behind() {
    let lab = Lab::new();
    std::os::unix::fs::symlink("./".repeat(1_000) + "nowhere", lab.path("l")).unwrap();
    let step = format!("{}:", lab.path("l").display());
    let path = format!("{}/usr/bin:/bin", step.repeat(100_000 / step.len()));
    let script = "echo $$ > leader; sleep 1000 & wait";
    let mut found_untold = 0;
    for _ in 0..5 {
        let first = Running::start(lab.run(&["k"], &["sh", "-c", script]).env("PATH", &path));
        let guard = guard_of(first.pid());
        let mut command = Vec::new();
        eventually("the command", || {
            command = children(guard);
            !command.is_empty()
        });
        // The guard's own program still: it has not come to the command's.
        let comm = format!("/proc/{}/comm", command[0].as_raw_nonzero());
        found_untold += usize::from(std::fs::read_to_string(comm).is_ok_and(|name| name == "exe\n"));
        kill_process(guard, Signal::KILL).unwrap();
        first.end().assert_says(71, "the guard process was killed");
        assert!(!lives(command[0]), "it goes on without a lock");
    }
    assert!(found_untold > 0, "the guard was always killed too late");
}

#[test]
fn the_guard_does_not_end_by_what_is_sent_to_everybody() {
    let lab = Lab::new();
    let script = "trap 'echo term >> log' TERM; echo up >> log; while :; do sleep 0.02; done";
    let first = lab.start(&["k"], &["sh", "-c", script]);
    lab.wait_for("up");
    let guard = guard_of(first.pid());
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::TSTP, Signal::USR1] {
        kill_process(guard, signal).unwrap();
    }
    first.signal(Signal::TERM);
    lab.wait_for("term");
    assert!(lives(guard));
    drop(first);
}

/// Whoever stops the guard stops also its clock; what it finds out when it goes on is not started any more.
#[test]
fn a_guard_that_hears_too_late_that_it_may_start_starts_nothing() {
    let lab = Lab::new();
    let holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let waiter = lab.start(&["--json", "--ttl", "300ms", "k"], &["sh", "-c", "echo ran >> log"]);
    lab.wait_for_queue("k", 1);
    let guard = guard_of(waiter.pid());
    kill_process(guard, Signal::STOP).unwrap();
    lab.open_gate("first");
    assert_eq!(holder.end().code(), 0);
    eventually("the grant", || waiter.err_so_far().contains("acquired"));
    let token = lab.inspect("k").holders[0].token;
    // The one that it was told of.
    let clock = fencepost::backend::SystemClock::new();
    let over = fencepost::backend::Clock::boot(&clock) + Duration::from_millis(300);
    eventually("the end of the first lease", || fencepost::backend::Clock::boot(&clock) > over);
    assert_eq!(lab.inspect("k").holders[0].token, token, "it is renewed");
    kill_process(guard, Signal::CONT).unwrap();
    let done = waiter.end();
    assert_eq!(done.code(), 70, "{done:?}");
    assert!(done.err.contains("nothing was run"), "{done:?}");
    assert_eq!(lab.log(), ["first", "first ends"]);
}
