//! Real servers do what they are told, and nothing of them is left behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_conformance::SkewedClock;
use lock_conformance::servers::{Redis, RedisSetup, Reply, WallClock, free_port};
use lock_core::{Clock, ErrorKind, SystemClock};

const SECOND: i64 = 1_000_000;

#[tokio::test]
async fn a_server_answers_as_soon_as_it_is_started() {
    let redis = Redis::start().await.unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
    assert_eq!(redis.command(["GET", "nothing"]).await.unwrap(), Reply::Nil);
    assert_eq!(redis.command(["INCR", "n"]).await.unwrap(), Reply::Number(1));
    assert_eq!(redis.command(["ECHO", ""]).await.unwrap(), text(""));
    let list = redis.command(["MGET", "n", "nothing"]).await.unwrap();
    assert_eq!(list, Reply::List(vec![text("1"), Reply::Nil]));
    assert!(matches!(redis.command(["NONSENSE"]).await.unwrap(), Reply::Error(_)));
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
}

#[tokio::test]
async fn a_server_listens_on_its_socket_too() {
    let redis = Redis::start().await.unwrap();
    tokio::net::UnixStream::connect(redis.socket()).await.unwrap();
}

#[tokio::test]
async fn what_is_persistent_survives_a_kill() {
    let redis = RedisSetup::new().persistent().start().await.unwrap();
    redis.command(["SET", "k", "v"]).await.unwrap();
    let (port, before) = (redis.port(), pid(&redis));
    redis.kill().await.unwrap();
    assert!(!runs(before));
    assert_eq!(redis.command(["GET", "k"]).await.unwrap_err().kind(), &ErrorKind::Unavailable);
    redis.start_again().await.unwrap();
    assert_eq!(redis.port(), port);
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), text("v"));
    redis.shut_down().await.unwrap();
    redis.start_again_empty().await.unwrap();
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), Reply::Nil);
}

#[tokio::test]
async fn what_is_in_memory_only_does_not() {
    let redis = Redis::start().await.unwrap();
    redis.command(["SET", "k", "v"]).await.unwrap();
    redis.kill().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), Reply::Nil);
}

#[tokio::test]
async fn a_server_that_crashed_by_itself_can_be_started_again() {
    let redis = Redis::start().await.unwrap();
    let server = redis.server().unwrap();
    assert_eq!(redis.start_again().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    let _ = redis.command(["SHUTDOWN", "NOSAVE"]).await;
    until("the server has ended", || server.has_ended().unwrap()).await;
    assert!(redis.stop().is_err(), "a process that is not the server's any more was stopped");
    redis.start_again().await.unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
}

#[tokio::test]
async fn a_server_that_is_stopped_answers_when_it_goes_on() {
    let redis = Redis::start().await.unwrap();
    redis.stop().unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap_err().kind(), &ErrorKind::TimedOut);
    redis.go_on().unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_shown() {
    let secret = "s3cret \"with\" \\ and \u{00e9}";
    let redis = RedisSetup::new().password(secret).start().await.unwrap();
    assert_eq!(redis.command(["PING"]).await.unwrap(), text("PONG"));
    let open = tokio::net::TcpStream::connect(redis.address()).await.unwrap();
    let mut answer = [0; 7];
    let (mut read, mut write) = open.into_split();
    tokio::io::AsyncWriteExt::write_all(&mut write, b"PING\r\n").await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut read, &mut answer).await.unwrap();
    assert_eq!(&answer, b"-NOAUTH");

    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pid(&redis))).unwrap();
    assert!(line.contains("redis-server") && !line.contains("s3cret"), "{line}");
    assert!(!format!("{redis:?}").contains("s3cret"));
    let file = std::fs::metadata(redis.directory().join("redis.conf")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_is_dropped() {
    let redis = Redis::start().await.unwrap();
    let (pid, directory) = (pid(&redis), redis.directory().to_owned());
    let guard = parent(pid);
    // Stopped, it would not hear a milder signal.
    redis.stop().unwrap();
    assert!(runs(pid) && runs(guard) && directory.exists());
    let (clock, start) = (SystemClock::new(), SystemClock::new().boot());
    drop(redis);
    assert!(!runs(pid) && !runs(guard) && !directory.exists());
    let took = clock.boot().since(start);
    assert!(took < Duration::from_secs(5), "it was not killed at once, but in {took:?}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = RedisSetup::new().arguments(["--no-such-option", "1"]).start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = RedisSetup::new().arguments(["--port", &port]).start().await.unwrap_err();
    assert!(error.message().contains("already in use") && error.message().contains(&port), "{error}");
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_with_what_to_install() {
    let error = RedisSetup::new().program("no-such-server").start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Misconfigured);
    assert_eq!(error.message(), "there is no program no-such-server: apt-get install redis-server");
}

#[test]
fn no_port_is_given_to_two() {
    let ports: Vec<_> = (0..500).map(|_| free_port().unwrap()).collect();
    let mut numbers: Vec<_> = ports.iter().map(lock_conformance::servers::Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), ports.len());
}

#[tokio::test]
async fn many_servers_start_at_once() {
    let servers: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async {
                let redis = Redis::start().await.unwrap();
                redis.kill().await.unwrap();
                redis.start_again().await.unwrap();
                redis.command(["DBSIZE"]).await.unwrap()
            })
        })
        .collect();
    for server in servers {
        assert_eq!(server.await.unwrap(), Reply::Number(0));
    }
}

/// In the variable: where the child says what it has started.
const VICTIM: &str = "SERVERS_TEST_VICTIM";

#[tokio::test]
async fn a_server_dies_with_a_test_that_is_killed() {
    if let Ok(file) = std::env::var(VICTIM) {
        let (redis, bare) = (Redis::start().await.unwrap(), Redis::start().await.unwrap());
        redis.stop().unwrap();
        std::fs::remove_dir_all(bare.directory()).unwrap();
        let line = format!("{} {} {}\n", pid(&redis), pid(&bare), redis.directory().display());
        std::fs::write(format!("{file}.new"), line).unwrap();
        std::fs::rename(format!("{file}.new"), file).unwrap();
        return std::future::pending().await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("started");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_dies_with_a_test_that_is_killed", "--nocapture"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the child has started a server", || file.exists()).await;
    let line = std::fs::read_to_string(&file).unwrap();
    let mut words = line.trim_end().splitn(3, ' ');
    let (pid, bare) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
    let data = Path::new(words.next().unwrap());
    assert!(runs(pid) && runs(bare) && data.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    until("the server is gone", || !runs(pid)).await;
    until("the server without a directory is gone", || !runs(bare)).await;
    until("its directory is gone", || !data.exists()).await;
}

#[tokio::test]
async fn the_wall_clock_of_a_server_can_be_moved() {
    let (clock, wall) = (SkewedClock::new(), WallClock::new().unwrap());
    let redis = RedisSetup::new().wall_clock(&wall).start().await.unwrap();
    same(&redis, &clock).await;
    wall.step(60 * SECOND).unwrap();
    let ahead = off_by(&redis).await;
    assert!((ahead - 60 * SECOND).abs() < 5 * SECOND, "{ahead}");
    wall.step(-120 * SECOND).unwrap();
    let behind = off_by(&redis).await;
    assert!((behind + 60 * SECOND).abs() < 5 * SECOND, "{behind}");
    wall.stop_at(1_500_000_000_123_456).unwrap();
    assert_eq!(time(&redis).await, 1_500_000_000_123_456);
    assert_eq!(time(&redis).await, 1_500_000_000_123_456);
    wall.stop_at(0).unwrap();
    let behind = off_by(&redis).await;
    assert!((behind + 60 * SECOND).abs() < 5 * SECOND, "{behind}");
}

#[tokio::test]
async fn a_server_goes_by_the_clock_that_is_shown_to_it() {
    let (clock, wall) = (SkewedClock::new(), WallClock::new().unwrap());
    clock.step_wall(3600 * SECOND);
    clock.shown_on(wall.clone()).unwrap();
    let redis = RedisSetup::new().wall_clock(&wall).start().await.unwrap();
    same(&redis, &clock).await;
    clock.step_wall(-7200 * SECOND);
    same(&redis, &clock).await;
    clock.sleep_machine(Duration::from_secs(60));
    same(&redis, &clock).await;
    clock.stop_wall(1_000_000);
    assert_eq!(time(&redis).await, 1_000_000);
    clock.stop_wall(0);
    same(&redis, &clock).await;
}

#[tokio::test]
async fn a_key_expires_by_the_wall_clock_that_the_server_sees() {
    let wall = WallClock::new().unwrap();
    let redis = RedisSetup::new().wall_clock(&wall).start().await.unwrap();
    redis.command(["SET", "k", "v", "PX", "600000"]).await.unwrap();
    wall.step(540 * SECOND).unwrap();
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), text("v"));
    wall.step(120 * SECOND).unwrap();
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), Reply::Nil);
}

/// The server's time is between two looks at the clock.
async fn same(redis: &Redis, clock: &SkewedClock) {
    let before = clock.wall_micros();
    let between = time(redis).await;
    let after = clock.wall_micros();
    assert!(before <= between && between <= after, "{before} <= {between} <= {after}");
}

/// By how many microseconds the server is ahead of the machine.
async fn off_by(redis: &Redis) -> i64 {
    let (theirs, ours) = (time(redis).await, SystemClock::new().wall_micros());
    i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap()
}

async fn time(redis: &Redis) -> u64 {
    let Reply::List(pair) = redis.command(["TIME"]).await.unwrap() else { panic!("no time") };
    match &pair[..] {
        [Reply::Text(seconds), Reply::Text(micros)] => {
            seconds.parse::<u64>().unwrap() * 1_000_000 + micros.parse::<u64>().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

fn pid(redis: &Redis) -> u32 {
    redis.server().unwrap().pid()
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// From its `stat`: id, name in parentheses, state, parent.
fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so() {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
