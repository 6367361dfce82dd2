//! What is said, and what is not.

use serde_json::Value;

use crate::lab::{Done, Lab, Running, eventually, guard_of, lives};

fn events(err: &str) -> Vec<Value> {
    err.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn nothing_is_said_when_all_is_well() {
    let lab = Lab::new();
    let done = lab.done(&["k"], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((&*done.out, &*done.err), ("out\n", "err\n"));
}

#[test]
fn events_tell_the_story() {
    let lab = Lab::new();
    let done = lab.done(&["--json", "--permits", "1", "--of", "2", "k"], &["sh", "-c", "echo out; exit 3"]);
    assert_eq!(done.out, "out\n");
    let events = events(&done.err);
    assert_eq!(names(&events), ["acquired", "child_exit", "released"]);
    assert_eq!((&events[0]["key"], &events[0]["mode"]), (&"k".into(), &"permits".into()));
    assert_eq!((&events[0]["permits"], &events[0]["of"]), (&1.into(), &2.into()));
    assert!(events[0]["token"].as_u64() > Some(0));
    assert_eq!(events[1]["status"], 3);
}

#[test]
fn events_tell_who_is_in_the_way() {
    let lab = Lab::new();
    let holder = lab.hold(&["--name", "the-holder", "k"], "first");
    lab.wait_for("first");
    let busy = lab.done(&["--json", "--try", "k"], &["true"]);
    let busy = &events(&busy.err)[0];
    assert_eq!((&busy["event"], &busy["exit"]), (&"busy".into(), &75.into()));
    assert_eq!(busy["holder"]["name"], "the-holder");
    assert_eq!(busy["holder"]["pid"].as_i64(), Some(holder.pid().as_raw_nonzero().get().into()));
    assert!(busy["remaining_ms"].as_u64() > Some(0));

    let waiter = lab.start(&["--json", "k"], &["true"]);
    eventually("the event", || waiter.err_so_far().contains("waiting"));
    let waiting = &events(&waiter.err_so_far())[0];
    assert_eq!((&waiting["event"], &waiting["key"]), (&"waiting".into(), &"k".into()));
    assert_eq!(waiting["holder"]["name"], "the-holder");
    lab.open_gate("first");
    let done = waiter.end();
    assert_eq!(names(&events(&done.err)), ["waiting", "acquired", "child_exit", "released"]);
}

#[test]
fn events_tell_of_a_loss() {
    let lab = Lab::new();
    let first = lab.start(&["--json", "k"], &["sh", "-c", "echo up >> log; exec sleep 1000"]);
    lab.wait_for("up");
    lab.with_client(async |client| client.force_release("k", None).await.unwrap());
    let done = first.end();
    assert_eq!(done.code(), 70);
    let events = events(&done.err);
    assert_eq!(names(&events), ["acquired", "lost", "child_exit", "error"]);
    assert_eq!((&events[1]["reason"], &events[3]["exit"]), (&"revoked".into(), &70.into()));
}

#[test]
fn events_of_a_lease_that_ends_do_not_say_that_it_was_released() {
    let lab = Lab::new();
    let script = "trap '' TERM; echo up >> log; while :; do sleep 0.02; done";
    let first = lab.start(&["--json", "--ttl", "500ms", "k"], &["sh", "-c", script]);
    lab.wait_for("up");
    first.signal(rustix::process::Signal::STOP);
    let guard = guard_of(first.pid());
    eventually("the guard's end", || !lives(guard));
    first.signal(rustix::process::Signal::CONT);
    let done = first.end();
    assert_eq!(done.code(), 70);
    assert_eq!(names(&events(&done.err)), ["acquired", "child_exit", "lost", "error"]);
}

/// It is told of the lock by a line that cannot be written; meanwhile somebody has to renew the lease.
#[test]
fn who_does_not_read_the_events_does_not_cost_the_lock() {
    let lab = Lab::new();
    let (reader, mut full) = std::os::unix::net::UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut full, &[b'x'; 1024]).is_ok() {}
    full.set_nonblocking(false).unwrap();
    let many_leases = "sleep 6; echo ran >> log";
    let mut command = lab.run(&["--json", "--ttl", "1500ms", "k"], &["sh", "-c", many_leases]);
    let run = Running::start_with_error(&mut command, full.into());
    lab.wait_for("ran");
    eventually("the release", || lab.inspect("k").holders.is_empty());
    let mut told = std::io::BufReader::new(reader);
    eventually("the last event", || {
        let mut line = Vec::new();
        std::io::BufRead::read_until(&mut told, b'\n', &mut line).unwrap();
        String::from_utf8_lossy(&line).contains("released")
    });
    assert_eq!(run.end().code(), 0);
}

#[test]
fn a_wrong_command_line_is_an_event_too() {
    use std::os::unix::ffi::OsStrExt;
    let lab = Lab::new();
    let not_text = std::ffi::OsStr::from_bytes(b"\xff");
    for words in [
        &["run".as_ref(), "--json".as_ref(), not_text, "--".as_ref(), "true".as_ref()][..],
        &["run".as_ref(), "k".as_ref(), "--json".as_ref()],
    ] {
        let done = Done::from(lab.fencepost().args(words).output().unwrap());
        let events = events(&done.err);
        assert_eq!((done.code(), names(&events)), (64, vec!["error"]));
        assert_eq!(events[0]["exit"], 64);
    }
    let plain = Done::from(lab.fencepost().args(["run", "k", "--", "--json"]).output().unwrap());
    assert!(plain.err.starts_with("fencepost: "), "the word is the command's: {plain:?}");
}

#[test]
fn a_password_that_everybody_can_see_gets_a_warning() {
    let lab = Lab::new();
    let url = "gopher://user:hunter2@host";
    let run = ["run", "k", "--", "true"];
    let shown = Done::from(lab.fencepost().args(["--on", url]).args(run).output().unwrap());
    assert!(shown.err.contains("warning: the password in --on"), "{shown:?}");
    let hidden = Done::from(lab.fencepost().env("FENCEPOST_URL", url).args(run).output().unwrap());
    assert!(!hidden.err.contains("warning"), "{hidden:?}");
    let asked = Done::from(
        lab.fencepost().args(["--on", "gopher://host?password=hunter2"]).args(run).output().unwrap(),
    );
    assert!(asked.err.contains("warning: the password in --on"), "{asked:?}");
    assert!(!shown.err.contains("hunter2") && !hidden.err.contains("hunter2"));
}

#[test]
fn help_names_the_store_the_statuses_and_an_example() {
    let lab = Lab::new();
    let help = Done::from(lab.fencepost().args(["run", "--help"]).output().unwrap()).out;
    for part in
        ["a directory of this user", "FENCEPOST_URL", "run --try", "--wait 5m", "75  busy", "setsid", "sudo"]
    {
        assert!(help.contains(part), "{part:?} in {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    assert!(help.ends_with('\n'));
}
