//! `fencepost run KEY -- COMMAND`: runs a command under a lock, and ends it before the lock can end.
//!
//! The binary is two programs. As `fencepost` it talks to the store; as `fencepost-guard`, which it starts from itself, it
//! is the parent of the command and outlives whatever happens to the first. See `docs/command.md`.

#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the fencepost command works on Linux only: it rests on process groups, timers and sockets as Linux has them"
);

mod args;
mod exit;
mod findings;
mod group;
mod guard;
mod interrupt;
mod link;
mod process;
mod run;
mod say;
mod schema;
mod signals;
mod store;
mod supervise;
mod terminal;
mod waiting;
mod ward;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // Before anything else: the guard has to be at work by the time the lock is granted.
    match words.next() {
        Some(name) if name == guard::NAME => return guard::main(&words.collect::<Vec<_>>()),
        Some(name) if name == interrupt::NAME => return interrupt::main(&words.collect::<Vec<_>>()),
        _ => {}
    }
    match args::parse() {
        Ok(args::Asked::Run(on, asked)) => run::run(on.as_deref(), &asked),
        Ok(args::Asked::Schema(asked)) => schema::print(&asked),
        Err(code) => code,
    }
}
