//! On a terminal, which script(1) provides.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, eventually, has};

/// A terminal in which a shell runs a script; what it shows is kept in a file.
struct Terminal<'a> {
    lab: &'a Lab,
    script: Child,
    /// How often the shell had asked for a line when it got the last one.
    prompts: usize,
}

impl Terminal<'_> {
    fn run<'a>(lab: &'a Lab, script: &str) -> Option<Terminal<'a>> {
        if !has("script") {
            eprintln!("ignored: a terminal needs script(1) of util-linux");
            return None;
        }
        std::fs::write(lab.path("session.sh"), script).unwrap();
        let mut command = Command::new("script");
        // In the place of the shell that script(1) starts: dash would stay, and be ended by the keyboard.
        command.args(["-qefc", "exec sh session.sh", "shown"]).current_dir(lab.path("")).env("TERM", "xterm");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Terminal { lab, script: command.spawn().unwrap(), prompts: 0 })
    }

    /// An interactive shell with job control, in a directory with a script for it to run.
    fn interactive<'a>(lab: &'a Lab, script: &str) -> Option<Terminal<'a>> {
        if !has("bash") {
            eprintln!("ignored: job control needs bash");
            return None;
        }
        std::fs::write(lab.path("inner.sh"), script).unwrap();
        let mut terminal = Terminal::run(lab, "PS1='prompt> ' exec bash --norc --noprofile -i")?;
        terminal.wait_for_prompt();
        Some(terminal)
    }

    /// A line for the shell, which has asked for it.
    fn enters(&mut self, line: &str) {
        self.prompts = self.shown().matches("prompt> ").count();
        self.types(&format!("{line}\n"));
    }

    fn wait_for_prompt(&mut self) {
        eventually("the prompt", || self.shown().matches("prompt> ").count() > self.prompts);
    }

    /// The shell is in front again, and says how the last command ended.
    fn wait_for_status(&mut self, status: &str) {
        self.wait_for_prompt();
        self.enters("echo status:$?");
        self.wait_for(&format!("status:{status}"));
        self.wait_for_prompt();
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

/// What it does before it is interrupted: with the keyboard, or without having asked for it.
const COMMANDS: [&str; 2] =
    ["k -- sh -c 'echo up; exec sleep 1000'", "k -- sh -c 'read word; echo up; read word'"];

#[test]
fn an_interrupt_ends_the_script_around_the_command() {
    for shell in ["sh", "bash"] {
        for (command, input) in COMMANDS.into_iter().zip(["", "word\n"]) {
            for (key, status) in [("\x03", "130"), ("\x1c", "131")] {
                // As without fencepost: bash goes on after a quit.
                if (shell, key) == ("bash", "\x1c") {
                    continue;
                }
                let lab = Lab::new();
                let script = format!("{}; echo goes on", run(&lab, command));
                let Some(mut terminal) = Terminal::interactive(&lab, &script) else { return };
                terminal.enters(&format!("{shell} inner.sh"));
                terminal.types(input);
                terminal.wait_for("up");
                terminal.types(key);
                terminal.wait_for_status(status);
                assert!(!terminal.shown().contains("goes on"), "{shell} {command} {key:?}");
            }
        }
    }
}

#[test]
fn an_interrupt_ends_the_loop_around_the_command() {
    let lab = Lab::new();
    let command = run(&lab, "k -- sh -c 'echo up:$0; exec sleep 1000' $turn");
    let Some(mut terminal) = Terminal::interactive(&lab, "") else { return };
    terminal.enters(&format!("for turn in a b; do {command}; done"));
    terminal.wait_for("up:a");
    terminal.types("\x03");
    terminal.wait_for_status("130");
    assert!(!terminal.shown().contains("up:b"));
}

#[test]
fn an_interrupt_ends_the_loop_around_the_waiting() {
    let lab = Lab::new();
    let _holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let Some(mut terminal) = Terminal::interactive(&lab, "") else { return };
    terminal.enters(&format!("for turn in a b; do {}; done", run(&lab, "k -- true")));
    terminal.wait_for("is held by");
    terminal.types("\x03");
    terminal.wait_for_status("130");
    assert_eq!(terminal.shown().matches("nothing was run").count(), 1);
    lab.open_gate("first");
}

#[test]
fn a_command_in_a_script_hears_the_interrupt_once() {
    let lab = Lab::new();
    let traps = "trap \"echo int >> log\" INT; trap \"echo quit >> log; exit 3\" QUIT";
    let command = run(&lab, &format!("k -- sh -c '{traps}; echo up; while :; do sleep 0.02; done'"));
    let Some(mut terminal) = Terminal::run(&lab, &format!("trap : INT QUIT; {command}; echo status:$?"))
    else {
        return;
    };
    terminal.wait_for("up");
    terminal.types("\x03");
    lab.wait_for("int");
    terminal.types("\x1c");
    terminal.wait_for("status:3");
    assert_eq!(lab.log(), ["int", "quit"]);
}

#[test]
fn a_script_around_the_command_is_suspended_with_it() {
    let lab = Lab::new();
    let command = "k -- sh -c 'trap \"echo continued\" CONT; echo up; while :; do sleep 0.02; done'";
    let script = format!("{}; echo goes on", run(&lab, &format!("--ttl 60s {command}")));
    let Some(mut terminal) = Terminal::interactive(&lab, &script) else { return };
    terminal.enters("sh inner.sh");
    terminal.wait_for("up");
    terminal.types("\x1a");
    terminal.wait_for_status("148");
    terminal.enters("fg");
    terminal.wait_for("continued");
    terminal.types("\x03");
    terminal.wait_for_status("130");
}

#[test]
fn a_script_around_a_command_with_the_keyboard_is_suspended_with_it() {
    let lab = Lab::new();
    let script = format!("{}; echo done:$?", run(&lab, &format!("--ttl 60s {}", COMMANDS[1])));
    let Some(mut terminal) = Terminal::interactive(&lab, &script) else { return };
    terminal.enters("sh inner.sh");
    terminal.types("word\n");
    terminal.wait_for("up");
    terminal.types("\x1a");
    terminal.wait_for_status("147");
    terminal.enters("fg");
    terminal.types("word\n");
    terminal.wait_for("done:0");
}

#[test]
fn nobody_is_suspended_whom_nobody_could_continue() {
    let lab = Lab::new();
    let reads = run(&lab, "--ttl 60s k -- sh -c 'echo up; read word; echo command:$word'");
    let Some(mut terminal) = Terminal::run(&lab, &format!("exec {reads}")) else { return };
    terminal.wait_for("up");
    terminal.types("\x1aone\n");
    terminal.wait_for("command:one");

    let lab = Lab::new();
    let _holder = lab.hold(&["k"], "first");
    lab.wait_for("first");
    let Some(mut terminal) = Terminal::run(&lab, &format!("exec {}", run(&lab, "k -- echo granted"))) else {
        return;
    };
    terminal.wait_for("is held by");
    terminal.types("\x1a");
    terminal.wait_for("^Z");
    lab.open_gate("first");
    terminal.wait_for("granted");
}

#[test]
fn a_shell_in_the_commands_place_can_be_suspended() {
    let lab = Lab::new();
    let Some(mut terminal) = Terminal::interactive(&lab, "") else { return };
    terminal.enters(&run(&lab, "--ttl 60s k -- bash --norc --noprofile -i"));
    terminal.wait_for_prompt();
    terminal.enters("echo in:$FENCEPOST_KEY");
    terminal.wait_for("in:k");
    terminal.wait_for_prompt();
    terminal.enters("suspend");
    terminal.wait_for("Stopped");
    terminal.wait_for_status("147");
    terminal.enters("fg");
    terminal.types("echo again:$FENCEPOST_KEY\n");
    terminal.wait_for("again:k");
}

#[test]
fn a_fencepost_inside_another_gets_the_keyboard_and_is_suspended_with_it() {
    for line in ["sh inner.sh", ". ./inner.sh"] {
        let lab = Lab::new();
        let inner = run(&lab, "--ttl 60s b -- sh -c 'read word; echo got:$word; read word; echo got:$word'");
        let outer = run(&lab, &format!("--ttl 60s a -- {inner}"));
        let Some(mut terminal) = Terminal::interactive(&lab, &outer) else { return };
        terminal.enters(line);
        terminal.types("one\n");
        terminal.wait_for("got:one");
        terminal.types("\x1a");
        terminal.wait_for_status("14");
        terminal.enters("fg");
        terminal.types("two\n");
        terminal.wait_for("got:two");
    }
}
