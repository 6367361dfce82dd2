//! Where it may run: what the command inherits, and containers.

use std::process::Command;

use rustix::process::Signal;

use crate::lab::{Done, Lab, Running, children, eventually, has};

#[test]
fn the_command_inherits_no_descriptor_of_ours() {
    let lab = Lab::new();
    let list = ["ls", "/proc/self/fd"];
    // What is open here that does not close on exec is not ours to close.
    let usual = Command::new(list[0]).arg(list[1]).stdin(std::process::Stdio::null()).output().unwrap();
    let done = lab.done(&["k"], &list);
    assert_eq!(done.out, Done::from(usual).out);
}

#[test]
fn the_command_reads_what_was_meant_for_it() {
    let lab = Lab::new();
    std::fs::write(lab.path("input"), "a line\n").unwrap();
    let mut run = lab.run(&["k"], &["cat"]);
    let done = Done::from(run.stdin(std::fs::File::open(lab.path("input")).unwrap()).output().unwrap());
    assert_eq!((done.code(), &*done.out), (0, "a line\n"));
}

#[test]
fn signals_are_to_the_command_as_they_were_to_us() {
    let lab = Lab::new();
    let show = "grep -E '^Sig(Ign|Blk|Cgt)' /proc/self/status";
    let shell = |trap: &str, what: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{trap} exec {what}")]).stdin(std::process::Stdio::null());
        Done::from(command.output().unwrap()).out
    };
    let run = format!("{} --on {} run k -- {show}", env!("CARGO_BIN_EXE_fencepost"), lab.url());
    for trap in ["", "trap '' HUP INT USR1;"] {
        assert_eq!(shell(trap, &run), shell(trap, show), "after {trap:?}");
    }
}

#[test]
fn an_ignored_hangup_stays_ignored_while_waiting() {
    let lab = Lab::new();
    let _holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let script =
        format!("trap '' HUP; exec {} --on {} run k -- true", env!("CARGO_BIN_EXE_fencepost"), lab.url());
    let waiter = Running::start(Command::new("sh").args(["-c", &script]));
    lab.wait_for_queue("k", 1);
    waiter.signal(Signal::HUP);
    lab.open_gate("first");
    assert_eq!(waiter.end().code(), 0);
}

#[test]
fn as_process_1_it_reaps_and_passes_signals_on() {
    let Some(mut command) = apart(&["--pid", "--fork", "--mount-proc"]) else { return };
    let lab = Lab::new();
    // An orphan that leaves the group, as a daemon does, and ends: nobody but process 1 and the guard can reap it.
    let script = "trap 'echo term >> log; exit 9' TERM; setsid sh -c 'sh -c \"exit\" & exit' & wait $!; echo up >> log; \
                  while :; do sleep 0.02; done";
    command.arg(env!("CARGO_BIN_EXE_fencepost")).current_dir(lab.path(""));
    command.args(["--on", &lab.url(), "run", "k", "--", "sh", "-c", script]);
    let run = Running::start(&mut command);
    lab.wait_for("up");
    let first = children(run.pid())[0];
    eventually("no zombie", || {
        let zombies = Command::new("ps").args(["-e", "-o", "stat="]).output();
        let guard = children(first)[0];
        let dead = |pid| crate::lab::state(pid) == Some('Z');
        zombies.is_ok() && !children(first).into_iter().chain(children(guard)).any(dead)
    });
    rustix::process::kill_process(first, Signal::TERM).unwrap();
    assert_eq!(run.end().code(), 9);
    assert_eq!(lab.log(), ["up", "term"]);
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 0, "released");
}

/// A container's first process belongs to a session and a group that have no number in there.
#[test]
fn as_process_1_it_takes_along_who_only_changed_groups() {
    let Some(mut command) = apart(&["--pid", "--fork", "--mount-proc"]) else { return };
    let lab = Lab::new();
    let child = "trap \"echo ended >> log; exit\" TERM; echo up >> log; while :; do sleep 0.02; done";
    let script = format!("timeout 1000 sh -c '{child}' & until grep -q up log; do sleep 0.02; done; exit 3");
    command.arg(env!("CARGO_BIN_EXE_fencepost")).current_dir(lab.path(""));
    command.args(["--on", &lab.url(), "run", "--grace", "10m", "k", "--", "sh", "-c", &script]);
    let done = Running::start(&mut command).end();
    assert_eq!(done.code(), 3, "{done:?}");
    assert_eq!(lab.log(), ["up", "ended"]);
}

/// The system gives a number away once the leader is reaped and its group is empty.
#[test]
fn a_number_that_was_given_away_gets_no_signal() {
    let Some(mut command) = apart(&["--pid", "--fork", "--mount-proc", "--kill-child"]) else { return };
    let lab = Lab::new();
    // Who takes the number is a group's leader, too. No loop: it would take numbers itself.
    let other = "trap \"\" TERM; trap \"echo passed on >> log\" HUP; sleep 1000 & echo up >> log; while :; do wait; done";
    let script = format!(
        "\"$0\" --on \"$1\" run --grace 10m --json k -- sh -c '
            echo $$ > leader; timeout 1000 sh -c '\\''{other}'\\'' & until grep -q up log; do :; done' 2> events & run=$!
        until grep -q child_exit events; do :; done; leader=$(cat leader)
        while kill -0 $leader; do :; done
        echo $((leader - 1)) > /proc/sys/kernel/ns_last_pid
        setsid sh -c 'trap \"echo hit >> log\" HUP; sleep 1000 & echo there >> log; while :; do wait; done' &
        echo $(($! - leader)) > off
        until grep -q there log; do :; done
        kill -HUP $run; until grep -q passed log; do :; done
        kill -TERM $run; wait $run; echo ended $? >> log"
    );
    command
        .args(["sh", "-c", &script, env!("CARGO_BIN_EXE_fencepost"), &lab.url()])
        .current_dir(lab.path(""));
    let done = Running::start(&mut command).end();
    lab.wait_for("ended 0");
    assert_eq!(lab.text("off"), "0\n", "the number was not given away");
    assert!(!lab.log().contains(&"hit".to_owned()), "{:?} {done:?}", lab.log());
}

#[test]
fn a_full_disk_is_the_directorys_fault() {
    let Some(mut command) = apart(&["--mount"]) else { return };
    let lab = Lab::new();
    let disk = lab.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" || exit 0; cd \"$1\"
        run() { \"$0\" --on \"file://$1/locks\" run k -- true; echo $?; }
        run \"$1\"; dd if=/dev/zero of=fill bs=4k 2>/dev/null; run \"$1\"";
    command.args(["sh", "-c", script, env!("CARGO_BIN_EXE_fencepost")]).arg(&disk);
    let done = Done::from(command.output().unwrap());
    assert!(done.out.is_empty() || done.out == "0\n73\n" && done.err.contains("make room"), "{done:?}");
}

#[test]
fn a_process_without_descriptors_says_so_before_long() {
    let lab = Lab::new();
    let script = "ulimit -n $1 && exec \"$0\" --on \"$2?connect_timeout=500ms\" run --wait 1s k -- true";
    let mut refused = 0;
    for limit in 12..32 {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_fencepost"), &limit.to_string(), &lab.url()]);
        let done = Running::start(&mut command).end();
        if done.code() != 0 {
            refused += 1;
            assert!(matches!(done.code(), 69 | 71), "{limit}: {done:?}");
            assert!(done.err.contains("Too many open files"), "{limit}: {done:?}");
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_store_that_is_not_there_is_told_from_those_that_are() {
    let lab = Lab::new();
    let args = ["--on", "cometbft://h", "run", "k", "--", "true"];
    let etcd = if cfg!(feature = "etcd") { "etcd:, etcds:, " } else { "" };
    let postgres = if cfg!(feature = "postgres") { "postgres:, postgresql:, " } else { "" };
    let zookeeper = if cfg!(feature = "zookeeper") { ", zookeeper:, zookeepers:" } else { "" };
    Done::from(lab.fencepost().args(args).output().unwrap()).assert_says(
        78,
        &format!(
            "(this build has {etcd}file:, memory:, {postgres}redis+cluster:, redis+sentinel:, redis+unix:, redis:, rediss+cluster:, \
             rediss+sentinel:, rediss:{zookeeper})"
        ),
    );
}

#[test]
fn it_runs_with_its_standard_descriptors_closed() {
    let lab = Lab::new();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let script = format!("exec \"$0\" --on \"$1\" run k -- sh -c 'echo ran >> log; exit 3' {closed}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_fencepost"), &lab.url()]).current_dir(lab.path(""));
        assert_eq!(Running::start(&mut command).end().code(), 3, "{closed}");
    }
    assert_eq!(lab.log(), ["ran"; 4]);
}

/// `unshare` with these words, without input; `None`, and a word about it, where it may not be done.
fn apart(words: &[&str]) -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(words).stdin(std::process::Stdio::null());
        command
    };
    let may = has("unshare") && unshare().arg("true").output().is_ok_and(|it| it.status.success());
    if !may {
        eprintln!("ignored: it needs unshare(1) and the right to make a namespace (root)");
    }
    may.then(unshare)
}
