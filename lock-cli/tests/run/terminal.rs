//! On a terminal, which script(1) provides.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, eventually, has};

/// A terminal in which a shell runs a script; what it shows is kept in a file.
struct Terminal<'a> {
    lab: &'a Lab,
    script: Child,
}

impl Terminal<'_> {
    fn run<'a>(lab: &'a Lab, script: &str) -> Option<Terminal<'a>> {
        if !has("script") {
            eprintln!("ignored: a terminal needs script(1) of util-linux");
            return None;
        }
        std::fs::write(lab.path("session.sh"), script).unwrap();
        let mut command = Command::new("script");
        command.args(["-qefc", "sh session.sh", "shown"]).current_dir(lab.path("")).env("TERM", "xterm");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Terminal { lab, script: command.spawn().unwrap() })
    }

    fn types(&mut self, text: &str) {
        self.script.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.lab.path("shown")).unwrap_or_default()).into_owned()
    }

    fn wait_for(&self, text: &str) {
        eventually(&format!("{text:?} on the terminal"), || self.shown().contains(text));
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the terminal showed {:?}", self.shown());
        }
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn run(lab: &Lab, rest: &str) -> String {
    format!("{} --on {} run {rest}", env!("CARGO_BIN_EXE_fencepost"), lab.url())
}

#[test]
fn the_command_has_the_keyboard_and_the_shell_gets_it_back() {
    let lab = Lab::new();
    let reads = run(&lab, "k -- sh -c 'read word; echo command:$word'");
    let Some(mut terminal) = Terminal::run(&lab, &format!("{reads}; read word; echo shell:$word")) else {
        return;
    };
    terminal.types("one\n");
    terminal.wait_for("command:one");
    terminal.types("two\n");
    terminal.wait_for("shell:two");
}

#[test]
fn a_command_in_a_pipeline_gets_the_keyboard_when_it_asks() {
    let lab = Lab::new();
    let reads = run(&lab, "k -- sh -c 'read word; echo command:$word'");
    let Some(mut terminal) = Terminal::run(&lab, &format!("{reads} | cat")) else { return };
    terminal.types("one\n");
    terminal.wait_for("command:one");
}

#[test]
fn an_interrupt_reaches_the_command() {
    let lab = Lab::new();
    let command = run(
        &lab,
        "k -- sh -c 'trap \"echo interrupted; exit 3\" INT; echo up; while :; do sleep 0.05; done'",
    );
    let Some(mut terminal) = Terminal::run(&lab, &format!("trap : INT; {command}; echo status:$?")) else {
        return;
    };
    terminal.wait_for("up");
    terminal.types("\x03");
    terminal.wait_for("interrupted");
    terminal.wait_for("status:3");
}

#[test]
fn a_suspended_command_gives_the_shell_its_terminal_and_goes_on_when_it_is_continued() {
    let lab = Lab::new();
    let command = run(&lab, "--ttl 60s k -- sh -c 'echo up; read word; echo command:$word'");
    // Job control, as an interactive shell has it.
    let script = format!("set -m; {command}; echo back:$?; read word; echo shell:$word; fg");
    let Some(mut terminal) = Terminal::run(&lab, &script) else { return };
    terminal.wait_for("up");
    terminal.types("\x1a");
    terminal.wait_for("suspended");
    terminal.wait_for("back:");
    terminal.types("one\n");
    terminal.wait_for("shell:one");
    terminal.types("two\n");
    terminal.wait_for("command:two");
}

#[test]
fn who_waits_sees_for_whom() {
    let lab = Lab::new();
    let _holder = lab.hold(&["--name", "the-holder", "--note", "release 7", "k"], "first");
    lab.wait_for("first");
    let Some(terminal) = Terminal::run(&lab, &run(&lab, "k -- echo granted")) else { return };
    terminal.wait_for("held by the-holder");
    terminal.wait_for("release 7");
    lab.open_gate("first");
    terminal.wait_for("\r\x1b[Kgranted");
}

/// A terminal that is held by ^S takes no line, also not the one that wipes out who was waited for: the lock is granted
/// then, and nothing renews it before the command is started.
#[test]
fn a_lease_that_is_over_before_the_command_starts_runs_nothing() {
    let mut over = 0;
    for _ in 0..10 {
        let lab = Lab::new();
        let holder = lab.hold(&["k"], "first");
        lab.wait_for("first");
        let waits = run(&lab, "--ttl 300ms k -- sh -c 'echo granted >> log'; echo status:$?");
        let Some(mut terminal) = Terminal::run(&lab, &waits) else { return };
        terminal.wait_for("is held by");
        terminal.types("\x13");
        lab.open_gate("first");
        assert_eq!(holder.end().code(), 0);
        eventually("the lease's end", || lab.inspect("k").holders.is_empty());
        terminal.types("\x11");
        terminal.wait_for("status:");
        if terminal.shown().contains("status:70") {
            over += 1;
            assert!(terminal.shown().contains("before the command was started; nothing was run"));
            assert_eq!(lab.log(), ["first", "first ends"]);
            break;
        }
    }
    assert!(over > 0, "the terminal was always held too late");
}
