//! What a network loses is lost, nobody is told, and nothing of it is left behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_conformance::proxy::Way;
use lock_conformance::servers::{Island, Redis, RedisSetup, Reply};
use lock_core::{Clock, ErrorKind, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Long enough for a reply, and for the kernel to have sent again.
const SILENCE: Duration = Duration::from_millis(1_200);

/// After a cut of that length: the kernel doubles its pauses.
const RECOVERY: Duration = Duration::from_secs(5);

/// `None`, and a word about it, where there can be no island.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn island() -> Option<Island> {
    match Island::new() {
        Ok(island) => Some(island),
        Err(error) if *error.kind() == ErrorKind::Unsupported => {
            eprintln!("ignored: {}", error.message());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn redis_on(island: &Island) -> Redis {
    RedisSetup::new().on(island).start().await.unwrap()
}

#[tokio::test]
async fn a_server_on_an_island_answers() {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
    assert_eq!(redis.address(), format!("{}:{}", island.address(), redis.port()));
    assert_eq!(redis.url(), format!("redis://{}", redis.address()));
    assert!(island.address().to_string().starts_with("198.1"), "{}", island.address());
    assert_ne!(namespace("self"), namespace(&pid(&redis).to_string()));
    // The process is the server itself, not what led it there.
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pid(&redis))).unwrap();
    assert!(line.starts_with("redis-server"), "{line}");
    redis.kill().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_there_too() {
    let Some(island) = island() else { return };
    let error = RedisSetup::new().on(&island).program("no-such-server").start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Misconfigured);
    assert!(error.message().contains("no program no-such-server"), "{error}");
}

#[tokio::test]
async fn requests_that_are_lost_are_sent_again_after_a_heal() {
    a_connection_goes_on_after_a_cut(Way::ToServer).await;
}

#[tokio::test]
async fn replies_that_are_lost_are_sent_again_after_a_heal() {
    a_connection_goes_on_after_a_cut(Way::ToClient).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_both_ways_goes_on_after_a_heal() {
    a_connection_goes_on_after_a_cut(Way::Both).await;
}

async fn a_connection_goes_on_after_a_cut(way: Way) {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    let mut connection = TcpStream::connect(redis.address()).await.unwrap();
    let mut beside = UnixStream::connect(redis.socket()).await.unwrap();
    assert_eq!(ask(&mut connection, "INCR n").await, ":1\r\n");

    island.cut(way).unwrap();
    let mut asking = Box::pin(ask(&mut connection, "INCR n"));
    assert_eq!(within(SILENCE, &mut asking).await, None, "an answer came through");
    let arrived = if way == Way::ToClient { "2" } else { "1" };
    assert_eq!(ask(&mut beside, "GET n").await, format!("$1\r\n{arrived}\r\n"), "{way:?}");

    island.heal().unwrap();
    assert_eq!(within(RECOVERY, asking).await.as_deref(), Some(":2\r\n"), "nothing after the heal");
    assert_eq!(ask(&mut connection, "INCR n").await, ":3\r\n");
}

#[tokio::test]
async fn one_cut_is_added_to_another() {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    let mut connection = TcpStream::connect(redis.address()).await.unwrap();
    let mut beside = UnixStream::connect(redis.socket()).await.unwrap();
    island.cut(Way::ToServer).unwrap();
    island.cut(Way::ToClient).unwrap();
    let mut asking = Box::pin(ask(&mut connection, "INCR n"));
    assert_eq!(within(SILENCE, &mut asking).await, None);
    assert_eq!(ask(&mut beside, "EXISTS n").await, ":0\r\n");
    island.heal().unwrap();
    assert_eq!(within(RECOVERY, asking).await.as_deref(), Some(":1\r\n"));
}

#[tokio::test]
async fn no_connection_is_made_through_a_cut() {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    for way in [Way::ToServer, Way::ToClient, Way::Both] {
        island.cut(way).unwrap();
        let connecting = TcpStream::connect(redis.address());
        assert!(within(SILENCE, connecting).await.is_none(), "it connected, or was refused: {way:?}");
        island.heal().unwrap();
        within(RECOVERY, TcpStream::connect(redis.address())).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn two_islands_are_cut_apart() {
    let (Some(one), Some(other)) = (island(), island()) else { return };
    let (far, near) = (redis_on(&one).await, redis_on(&other).await);
    assert_ne!(one.address(), other.address());
    one.cut(Way::Both).unwrap();
    let connecting = TcpStream::connect(far.address());
    assert!(within(SILENCE, connecting).await.is_none(), "that island was cut");
    assert_eq!(near.command(["PING"]).await.unwrap(), text("PONG"));
    drop((one, far));
    assert_eq!(near.command(["PING"]).await.unwrap(), text("PONG"));
}

#[tokio::test]
async fn many_islands_are_made_at_once() {
    if island().is_none() {
        return;
    }
    let making: Vec<_> = (0..20).map(|_| std::thread::spawn(|| Island::new().unwrap())).collect();
    let islands: Vec<_> = making.into_iter().map(|made| made.join().unwrap()).collect();
    let mut addresses: Vec<_> = islands.iter().map(Island::address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), islands.len());
}

#[tokio::test]
async fn an_island_lives_as_long_as_a_server_on_it() {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    drop(island);
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
}

#[tokio::test]
async fn nothing_is_left_of_an_island_that_is_dropped() {
    let Some(island) = island() else { return };
    let redis = redis_on(&island).await;
    let (address, there) = (island.address().to_string(), namespace(&pid(&redis).to_string()));
    let mut connection = TcpStream::connect(redis.address()).await.unwrap();
    assert_eq!(ask(&mut connection, "INCR n").await, ":1\r\n");
    // The server ends with a reply that nobody takes, which the kernel goes on to send.
    island.cut(Way::ToClient).unwrap();
    assert_eq!(within(SILENCE, ask(&mut connection, "INCR n")).await, None);
    assert!(is_linked(&address) && is_used(&there));
    drop((redis, island));
    assert!(!is_linked(&address), "the link is left");
    assert!(!is_used(&there), "a process is left");
}

/// In the variable: where the child says what it has made.
const VICTIM: &str = "ISLAND_TEST_VICTIM";

#[tokio::test]
async fn an_island_goes_with_a_test_that_is_killed() {
    let Some(island) = island() else { return };
    if let Ok(file) = std::env::var(VICTIM) {
        let redis = redis_on(&island).await;
        let mut connection = TcpStream::connect(redis.address()).await.unwrap();
        assert_eq!(ask(&mut connection, "INCR n").await, ":1\r\n");
        island.cut(Way::ToClient).unwrap();
        assert_eq!(within(SILENCE, ask(&mut connection, "INCR n")).await, None);
        let line = format!("{} {}\n", island.address(), pid(&redis));
        std::fs::write(format!("{file}.new"), line).unwrap();
        std::fs::rename(format!("{file}.new"), file).unwrap();
        return std::future::pending().await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("made");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_island_goes_with_a_test_that_is_killed", "--nocapture"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the child has made an island", || file.exists()).await;
    let line = std::fs::read_to_string(&file).unwrap();
    let (address, pid) = line.trim_end().split_once(' ').unwrap();
    let there = namespace(pid);
    assert!(is_linked(address) && is_used(&there));
    victim.kill().unwrap();
    victim.wait().unwrap();
    until("the link is gone", || !is_linked(address)).await;
    until("its processes are gone", || !is_used(&there)).await;
}

/// Whether a link of this machine leads to this address.
fn is_linked(address: &str) -> bool {
    let output = Command::new("ip").args(["-o", "route", "get", address]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(" dev island")
}

/// A process's network namespace.
fn namespace(pid: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

/// Whether a process is in this namespace. They go while they are looked at.
fn is_used(namespace: &Path) -> bool {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("ns/net")).ok())
        .any(|theirs| theirs == namespace)
}

/// What comes first after one command, which is the whole reply when it is that short.
async fn ask(connection: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), command: &str) -> String {
    connection.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut reply = [0; 64];
    let length = connection.read(&mut reply).await.unwrap();
    String::from_utf8_lossy(&reply[..length]).into_owned()
}

async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = what => Some(done),
        () = SystemClock::new().sleep(limit) => None,
    }
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

fn pid(redis: &Redis) -> u32 {
    redis.server().unwrap().pid()
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so() {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
