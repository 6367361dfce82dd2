//! The command as its users meet it: real processes, a directory of locks for each test, and no waiting for a time, only
//! for what is to happen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(clippy::print_stderr, reason = "what a test cannot do here it says")]

mod ending;
mod etcd;
mod exit_status;
mod guard;
mod lab;
mod locking;
mod output;
mod places;
mod postgres;
mod redis;
mod servers;
mod terminal;
mod zookeeper;
