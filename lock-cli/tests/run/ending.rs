//! How a command ends that does not end by itself: always before its lock does.

use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

use crate::lab::{Lab, Running, eventually, lives, state, timed};

/// A command with a child and a grandchild, which leave their numbers.
pub(crate) const FAMILY: &str =
    "sh -c 'echo $$ > child; sleep 1000 & echo $! > grandchild; wait' & echo $$ > leader; wait";

/// A family that does not want to go.
pub(crate) const STUBBORN: &str = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > child; sleep 1000 & echo $! > grandchild; wait' \
                        & echo $$ > leader; while :; do wait; done";

/// Whoever of the family lives says so; then it leaves its mark.
const NEXT: &str = "for p in $(cat leader child grandchild); do kill -0 $p 2>/dev/null && echo $p >> alive; done; echo next \
                    >> log";

pub(crate) struct Family {
    members: [Pid; 3],
}

impl Family {
    pub(crate) fn born(lab: &Lab) -> Family {
        Family { members: ["leader", "child", "grandchild"].map(|name| lab.pid(name)) }
    }

    pub(crate) fn is_gone(&self) -> bool {
        !self.members.iter().any(|&member| lives(member))
    }
}

/// Starts a family and somebody who waits for its lock.
pub(crate) fn scene(lab: &Lab, options: &[&str], command: &str) -> (Running, Family, Running) {
    let first = lab.start(options, &["sh", "-c", command]);
    let family = Family::born(lab);
    let next = lab.start(&["k"], &["sh", "-c", NEXT]);
    lab.wait_for_queue("k", 1);
    (first, family, next)
}

#[track_caller]
pub(crate) fn assert_alone(lab: &Lab, next: Running) {
    assert_eq!(next.end().code(), 0);
    assert_eq!(lab.text("alive"), "", "they lived while another had the lock");
    assert_eq!(lab.log(), ["next"]);
}

#[test]
fn killed_with_kill_it_takes_the_whole_group_along() {
    let lab = Lab::new();
    let (first, family, next) = scene(&lab, &["k"], FAMILY);
    first.signal(Signal::KILL);
    assert_eq!(first.end().code(), -9);
    let ((), took) = timed(|| assert_alone(&lab, next));
    assert!(family.is_gone());
    assert!(took < Duration::from_secs(4), "not only when the lease was over, but after {took:?}");
}

/// `timeout` puts itself and what it starts into a group of their own; so does a shell with job control.
#[test]
fn who_only_changed_groups_is_taken_along() {
    let child = "echo $$ > child; sleep 1000 & echo $! > grandchild; wait";
    for (child, grace) in
        [(child.to_owned(), "5s"), (format!("trap \"\" TERM; {child}; while :; do wait; done"), "300ms")]
    {
        let lab = Lab::new();
        let command = format!("timeout 1000 sh -c '{child}' & echo $$ > leader; wait");
        let (first, family, next) = scene(&lab, &["--grace", grace, "k"], &command);
        first.signal(Signal::KILL);
        assert_alone(&lab, next);
        assert!(family.is_gone());
    }
}

#[test]
fn killed_with_kill_it_kills_who_does_not_end() {
    let lab = Lab::new();
    let (first, family, next) = scene(&lab, &["--grace", "300ms", "k"], STUBBORN);
    first.signal(Signal::KILL);
    assert_alone(&lab, next);
    assert!(family.is_gone());
}

#[test]
fn killed_with_kill_it_kills_before_the_deadline_whatever_the_grace() {
    let lab = Lab::new();
    let (first, family, next) = scene(&lab, &["--ttl", "1s", "--grace", "10m", "k"], STUBBORN);
    first.signal(Signal::KILL);
    assert_alone(&lab, next);
    assert!(family.is_gone());
}

#[test]
fn a_stopped_fencepost_loses_its_command_before_its_lock() {
    for (name, family) in [("ends when asked", FAMILY), ("stubborn", STUBBORN)] {
        let lab = Lab::new();
        let (first, family, next) = scene(&lab, &["--ttl", "1s", "k"], family);
        first.signal(Signal::STOP);
        assert_alone(&lab, next);
        assert!(family.is_gone(), "{name}");
        assert_eq!(state(first.pid()), Some('T'), "{name}: still stopped");
        first.signal(Signal::CONT);
        first.end().assert_says(70, "lost");
    }
}

#[test]
fn a_stopped_command_is_ended_too() {
    let lab = Lab::new();
    let (first, family, next) = scene(&lab, &["--ttl", "1s", "k"], FAMILY);
    for &member in &family.members {
        kill_process(member, Signal::STOP).unwrap();
    }
    first.signal(Signal::KILL);
    assert_alone(&lab, next);
    assert!(family.is_gone());
}

#[test]
fn a_stopped_command_is_continued_so_that_it_can_clean_up() {
    let lab = Lab::new();
    let script = "trap 'echo bye >> log; exit' TERM; echo $$ > leader; while :; do sleep 0.02; done";
    let first = lab.start(&["k"], &["sh", "-c", script]);
    let leader = lab.pid("leader");
    kill_process(leader, Signal::STOP).unwrap();
    eventually("the stop", || state(leader) == Some('T'));
    first.signal(Signal::KILL);
    lab.wait_for("bye");
}

#[test]
fn a_stopped_command_that_is_asked_to_end_hears_it() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let lab = Lab::new();
        let first = lab.start(&["k"], &["sh", "-c", "ulimit -c 0; echo $$ > leader; exec sleep 1000"]);
        let leader = lab.pid("leader");
        kill_process(leader, Signal::STOP).unwrap();
        eventually("the stop", || state(leader) == Some('T'));
        first.signal(signal);
        assert_eq!(first.end().code(), 128 + signal.as_raw());
    }
}

#[test]
fn a_command_that_ended_in_time_is_not_too_late_for_what_it_left() {
    let lab = Lab::new();
    let leaves = "(trap '' TERM; sleep 0.6) & exit 3";
    let done = lab.done(&["--timeout", "300ms", "k"], &["sh", "-c", leaves]);
    assert_eq!(done.code(), 3, "{done:?}");
}

#[test]
fn signals_are_passed_on() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
        let lab = Lab::new();
        let script = format!(
            "trap 'echo came >> log; exit 9' {}; echo up >> log; while :; do sleep 0.02; done",
            signal.as_raw()
        );
        let run = lab.start(&["k"], &["sh", "-c", &script]);
        lab.wait_for("up");
        run.signal(signal);
        assert_eq!(run.end().code(), 9, "{signal:?}");
        assert_eq!(lab.log(), ["up", "came"]);
    }
}

/// These do not end anything by themselves, and reach the command all the same.
#[test]
fn signals_of_the_terminal_are_passed_on() {
    for (name, signal) in [("WINCH", Signal::WINCH), ("TSTP", Signal::TSTP), ("CONT", Signal::CONT)] {
        let lab = Lab::new();
        let script = format!(
            "trap 'echo came >> log; exit 9' {name}; sleep 1000 & echo up >> log; while :; do wait; done"
        );
        let run = lab.start(&["k"], &["sh", "-c", &script]);
        lab.wait_for("up");
        run.signal(signal);
        assert_eq!(run.end().code(), 9, "{name}");
    }
}

/// The outer one's guard ends the inner one, whose guard ends the command.
#[test]
fn a_killed_fencepost_takes_along_what_runs_under_another_inside() {
    for (child, grace) in [(FAMILY, "5s"), (STUBBORN, "300ms")] {
        let lab = Lab::new();
        let fencepost = env!("CARGO_BIN_EXE_fencepost");
        let (url, options) = (lab.url(), ["--grace", grace, "k"]);
        let inner = [fencepost, "--on", &url, "run", "--grace", grace, "inner", "--", "sh", "-c", child];
        let first = lab.start(&options, &inner);
        let family = Family::born(&lab);
        let next = lab.start(&["k"], &["sh", "-c", NEXT]);
        lab.wait_for_queue("k", 1);
        first.signal(Signal::KILL);
        assert_alone(&lab, next);
        assert!(family.is_gone());
    }
}

#[test]
fn a_command_that_a_signal_ends_has_the_status_of_a_shell() {
    let lab = Lab::new();
    let run = lab.start(&["k"], &["sh", "-c", "echo up >> log; exec sleep 1000"]);
    lab.wait_for("up");
    run.signal(Signal::TERM);
    assert_eq!(run.end().code(), 128 + 15);
}

#[test]
fn what_the_leader_leaves_behind_is_ended() {
    for (name, child) in
        [("mild", "sleep 1000"), ("stubborn", "sh -c 'trap \"\" TERM; while :; do sleep 1; done'")]
    {
        let lab = Lab::new();
        let script = format!("{child} & echo $! > child; exit 6");
        let done = lab.start(&["--grace", "200ms", "k"], &["sh", "-c", &script]).end();
        assert_eq!(done.code(), 6, "{name}");
        assert!(!lives(lab.pid("child")), "{name}");
        assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 0);
    }
}

#[test]
fn the_lock_is_kept_until_the_last_of_the_group_has_ended() {
    let lab = Lab::new();
    lab.make_gate("gate");
    let lingering = "trap 'cat gate.gate; exit' TERM; echo up >> log; while :; do sleep 0.02; done";
    let script =
        format!("sh -c \"{lingering}\" & until grep -q up log; do sleep 0.02; done; echo left >> log");
    let run = lab.start(&["--grace", "10m", "k"], &["sh", "-c", &script]);
    lab.wait_for("left");
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 75);
    lab.open_gate("gate");
    assert_eq!(run.end().code(), 0);
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 0);
}

#[test]
fn who_left_the_group_is_not_ended_but_told_of() {
    let lab = Lab::new();
    let script =
        "setsid sh -c 'echo $$ > daemon; exec sleep 1000' & until test -s daemon; do sleep 0.02; done";
    let done = lab.start(&["k"], &["sh", "-c", script]).end();
    done.assert_says(0, "has left its group");
    let daemon = lab.pid("daemon");
    assert!(lives(daemon));
    kill_process(daemon, Signal::KILL).unwrap();
}

#[test]
fn who_asks_twice_does_not_wait_for_the_grace() {
    let lab = Lab::new();
    let script = "sh -c 'trap \"\" TERM; echo up >> log; while :; do sleep 1; done' & until grep -q up log; do sleep 0.02; \
                  done; echo left >> log";
    let run = lab.start(&["--grace", "10m", "--json", "k"], &["sh", "-c", script]);
    eventually("the leader's end", || run.err_so_far().contains("child_exit"));
    run.signal(Signal::TERM);
    assert_eq!(run.end().code(), 0);
}

#[test]
fn a_lock_that_was_taken_away_ends_the_command() {
    for (name, family) in [("ends when asked", FAMILY), ("stubborn", STUBBORN)] {
        let lab = Lab::new();
        let first = lab.start(&["--grace", "300ms", "k"], &["sh", "-c", family]);
        let family = Family::born(&lab);
        assert_eq!(lab.with_client(async |client| client.force_release("k", None).await.unwrap()), 1);
        first.end().assert_says(70, "ended by force");
        assert!(family.is_gone(), "{name}");
    }
}

#[test]
fn a_lost_session_ends_the_command() {
    let lab = Lab::new();
    let first = lab.start(&["--ttl", "1s", "k"], &["sh", "-c", FAMILY]);
    let family = Family::born(&lab);
    for session in std::fs::read_dir(lab.path("locks/sessions")).unwrap() {
        std::fs::remove_file(session.unwrap().path()).unwrap();
    }
    first.end().assert_says(70, "lost");
    assert!(family.is_gone());
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    for (name, family) in [("ends when asked", FAMILY), ("stubborn", STUBBORN)] {
        let lab = Lab::new();
        let done = lab.done(&["--timeout", "500ms", "--grace", "200ms", "k"], &["sh", "-c", family]);
        done.assert_says(124, "--timeout 500ms");
        assert!(Family::born(&lab).is_gone(), "{name}");
        assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 0);
    }
}

#[test]
fn a_long_command_outlives_many_leases() {
    let lab = Lab::new();
    // So long that a machine with much to do renews one in time.
    let first = lab.start(&["--ttl", "1500ms", "k"], &["sh", "-c", "sleep 6; echo done >> log"]);
    assert_eq!(first.end().code(), 0);
    assert_eq!(lab.log(), ["done"]);
}
