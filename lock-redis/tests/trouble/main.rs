//! Troubles behind sentinels and in a cluster, each of which went wrong once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod moving;
mod sentinel;
mod support;
