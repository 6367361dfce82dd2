//! Each exit status, and the line that goes with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::{Done, Lab, Running, timed};
use std::time::Duration;

#[test]
fn the_status_is_the_commands_own() {
    let lab = Lab::new();
    assert_eq!(lab.done(&["k"], &["true"]).code(), 0);
    assert_eq!(lab.done(&["k"], &["sh", "-c", "exit 37"]).code(), 37);
    let killed = lab.done(&["k"], &["sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.code(), 128 + 9);
    assert_eq!(killed.err, "", "what the command does is its own affair");
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let lab = Lab::new();
    lab.done(&["k"], &["no-such-command"]).assert_says(127, "\"no-such-command\" was not found");
    fs::write(lab.path("data"), "1").unwrap();
    lab.done(&["k"], &["./data"]).assert_says(126, "\"./data\" cannot be run");
    assert_eq!(lab.done(&["--try", "k"], &["true"]).code(), 0, "and the lock is free");
}

#[test]
fn a_script_without_a_first_line_is_the_shells() {
    let lab = Lab::new();
    fs::write(lab.path("script"), "echo $0 $1; exit 4\n").unwrap();
    fs::set_permissions(lab.path("script"), PermissionsExt::from_mode(0o755)).unwrap();
    let done = lab.done(&["k"], &["./script", "word"]);
    assert_eq!((done.code(), &*done.out), (4, "./script word\n"));
}

#[test]
fn busy_is_75_or_what_was_asked_for() {
    let lab = Lab::new();
    let _holder = lab.hold(&["--name", "the-holder", "k"], "first");
    lab.wait_for("first");
    lab.done(&["--try", "k"], &["true"]).assert_says(75, "held by the-holder");
    lab.done(&["--try", "-E", "1", "k"], &["true"]).assert_says(1, "held by the-holder");
    lab.open_gate("first");
}

#[test]
fn a_wait_that_is_over_is_75_as_well() {
    let lab = Lab::new();
    let _holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let (done, took) = timed(|| lab.done(&["--wait", "300ms", "k"], &["true"]));
    done.assert_says(75, "nothing was run");
    assert!(took >= Duration::from_millis(300), "it gave up after {took:?}");
    lab.open_gate("first");
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_none() {
    let lab = Lab::new();
    let words = |words: &[&str]| Done::from(lab.fencepost().args(words).output().unwrap()).code();
    assert_eq!(words(&["run"]), 64);
    assert_eq!(words(&["run", "k"]), 64);
    assert_eq!(words(&["run", "k", "true"]), 64, "the command comes after --");
    assert_eq!(words(&["run", "--try", "--wait", "1s", "k", "--", "true"]), 64);
    assert_eq!(words(&["run", "--wait", "soon", "k", "--", "true"]), 64);
    assert_eq!(words(&["run", "--permits", "2", "k", "--", "true"]), 64);
    assert_eq!(words(&["dance"]), 64);
    assert_eq!(words(&[]), 64);
    assert_eq!(words(&["--help"]), 0);
    assert_eq!(words(&["run", "--help"]), 0);
    assert_eq!(words(&["--version"]), 0);
    lab.done(&[""], &["true"]).assert_says(64, "key");
    lab.done(&["--permits", "3", "--of", "2", "k"], &["true"]).assert_says(64, "can never be granted");
    lab.done(&["--ttl", "1ms", "k"], &["true"]).assert_says(64, "nothing was run");
}

#[test]
fn a_url_that_cannot_be_is_78() {
    let lab = Lab::new();
    let on = |url: &str| {
        let words = ["--on", url, "run", "k", "--", "true"];
        Done::from(lab.fencepost().args(words).output().unwrap())
    };
    on("nonsense").assert_says(78, "scheme");
    on("file:relative").assert_says(78, "three slashes");
    on(&format!("{}?tll=3s", lab.url())).assert_says(78, "tll");
    on("gopher://x").assert_says(78, "no store is called gopher:");
    on("cometbft://x").assert_says(78, "the cometbft: store is planned, and not in this version");
}

#[test]
fn a_directory_that_cannot_be_used_is_73() {
    let lab = Lab::new();
    fs::create_dir(lab.path("real")).unwrap();
    std::os::unix::fs::symlink(lab.path("real"), lab.path("locks")).unwrap();
    lab.done(&["k"], &["true"]).assert_says(73, "symbolic link");
    fs::remove_file(lab.path("locks")).unwrap();
    fs::write(lab.path("locks"), "").unwrap();
    lab.done(&["k"], &["true"]).assert_says(73, "nothing was run");
    fs::remove_file(lab.path("locks")).unwrap();
    fs::create_dir(lab.path("locks")).unwrap();
    fs::set_permissions(lab.path("locks"), PermissionsExt::from_mode(0o777)).unwrap();
    lab.done(&["k"], &["true"]).assert_says(73, "others may write to it");
}

#[test]
fn a_directory_that_cannot_be_made_is_73() {
    let lab = Lab::new();
    for url in ["file:///proc/x", "file:///proc/nope/x"] {
        let words = ["--on", url, "run", "k", "--", "true"];
        let done = Done::from(lab.fencepost().args(words).output().unwrap());
        done.assert_says(73, "cannot be made there");
    }
    let mut command = lab.fencepost();
    command.env_remove("XDG_STATE_HOME").env("HOME", "/proc/nope");
    Running::start(command.args(["run", "k", "--", "true"])).end().assert_says(73, "cannot be made there");
}

#[test]
fn a_store_of_one_process_is_78() {
    let lab = Lab::new();
    for url in ["memory:", "memory:name?ttl=5s"] {
        let words = ["--on", url, "run", "k", "--", "true"];
        let done = Done::from(lab.fencepost().args(words).output().unwrap());
        done.assert_says(78, "lives in one process");
    }
}

#[test]
fn a_script_whose_interpreter_is_missing_is_told_from_one_that_is() {
    let lab = Lab::new();
    fs::write(lab.path("script"), "#!/no/such/shell -e\necho\n").unwrap();
    fs::set_permissions(lab.path("script"), PermissionsExt::from_mode(0o755)).unwrap();
    lab.done(&["k"], &["./script"]).assert_says(127, "its interpreter \"/no/such/shell -e\" is not");
}

#[test]
fn a_wrong_command_line_says_what_is_right() {
    let lab = Lab::new();
    let says = |words: &[&str], part: &str| {
        let done = Done::from(lab.fencepost().args(words).output().unwrap());
        assert_eq!(done.code(), 64, "{done:?}");
        assert!(done.err.contains(part) && !done.err.contains("tip:"), "{part:?} in {done:?}");
    };
    says(&["run", "k", "true"], "put -- before the command \"true\"");
    says(&["run", "--try", "k", "ls", "-l"], "put -- before the command \"ls\"");
    says(&["run", "--timeout", "-1", "k", "--", "true"], "not a time such as");
    says(&["run", "--wait", "5M", "k", "--", "true"], "m is minutes");
}

/// The command's own success is none: another may have had the lock meanwhile.
#[test]
fn a_lost_lock_is_70_although_the_command_succeeded() {
    let lab = Lab::new();
    let first =
        lab.start(&["k"], &["sh", "-c", "trap 'exit 0' TERM; echo up >> log; while :; do sleep 0.02; done"]);
    lab.wait_for("up");
    lab.with_client(async |client| client.force_release("k", None).await.unwrap());
    first.end().assert_says(70, "lost \"k\"");
}

#[test]
fn who_wants_to_hear_nothing_of_a_busy_lock_hears_nothing() {
    let lab = Lab::new();
    let _holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    for options in [&["-q", "--try", "k"][..], &["--quiet", "--wait", "100ms", "k"]] {
        let done = lab.done(options, &["true"]);
        assert_eq!((done.code(), &*done.err), (75, ""));
    }
    assert!(lab.done(&["-q", "--json", "--try", "k"], &["true"]).err.contains("\"busy\""));
    lab.done(&["-q", "other"], &["no-such-command"]).assert_says(127, "not found");
    lab.open_gate("first");
}

#[test]
fn a_signal_while_waiting_ends_the_waiting() {
    let lab = Lab::new();
    let mut holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let waiter = lab.start(&["k"], &["true"]);
    lab.wait_for_queue("k", 1);
    waiter.signal(rustix::process::Signal::TERM);
    waiter.end().assert_says(128 + 15, "nothing was run");
    assert!(lab.inspect("k").queue.is_empty(), "it left the queue");
    assert!(holder.is_running());
    lab.open_gate("first");
    assert_eq!(holder.end().code(), 0);
}

#[test]
fn without_a_url_the_locks_are_this_users() {
    let lab = Lab::new();
    let run = |name: &str, value: &std::path::Path| {
        let mut command = lab.fencepost();
        command.env_remove("XDG_STATE_HOME").env_remove("HOME").env(name, value);
        Running::start(command.args(["run", "k", "--", "true"])).end()
    };
    assert_eq!(run("XDG_STATE_HOME", &lab.path("st%te")).code(), 0);
    assert!(lab.path("st%te/fencepost/locks/keys").is_dir());
    assert_eq!(run("HOME", &lab.path("home")).code(), 0);
    assert!(lab.path("home/.local/state/fencepost/locks/keys").is_dir());
    run("HOME", std::path::Path::new("relative")).assert_says(78, "FENCEPOST_URL");
}
