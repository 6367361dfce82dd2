//! A PostgreSQL server that the harness starts does what it is told, lets in whom it is told, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lock_conformance::proxy::Way;
use lock_conformance::servers::{
    Authority, Certificate, ClientCertificates, Island, Postgres, PostgresSetup, Tls, WallClock,
};
use lock_core::{Clock, ErrorKind, SystemClock};

const SECOND: i64 = 1_000_000;
const PASSWORD: &str = "s3cret \"with\" ' \\ / and \u{00e9}";

#[tokio::test]
async fn a_server_answers_as_soon_as_it_is_started() {
    let postgres = Postgres::start().await.unwrap();
    assert_eq!(postgres.run("SELECT 1 + 1").await.unwrap(), "2");
    assert_eq!(postgres.run("SELECT 1, 'a'; SELECT 2").await.unwrap(), "1|a\n2");
    let rows = postgres.rows("VALUES (1, 'a|b'), (2, E'c\\nd'), (3, NULL)").await.unwrap();
    assert_eq!(rows, [["1", "a|b"], ["2", "c\nd"], ["3", ""]]);
    assert!(postgres.rows("SELECT 1 WHERE false").await.unwrap().is_empty());
    assert_eq!(
        postgres.run("SELECT setting FROM pg_settings WHERE name = 'server_encoding'").await.unwrap(),
        "UTF8"
    );
    let error = postgres.run("SELECT nonsense").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidInput);
    assert!(error.message().contains("\"nonsense\" does not exist"), "{error}");
    let url = format!("postgres://admin:{}@127.0.0.1:{}/postgres", postgres.password(), postgres.port());
    assert_eq!(postgres.url(), url);
    assert_eq!(said(&client(&postgres.url(), "SELECT 3")), "3");
    let socket = format!(
        "host={} port={} user=admin dbname=postgres password={}",
        postgres.socket_directory().display(),
        postgres.port(),
        postgres.password()
    );
    assert_eq!(said(&client(&socket, "SELECT 4")), "4");
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_kill_and_goes_with_the_data() {
    let postgres = PostgresSetup::new().setting("work_mem", "7MB").start().await.unwrap();
    table(&postgres).await;
    let (port, before) = (postgres.port(), pid(&postgres));
    assert_eq!(postgres.start_again().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    let client = sleeper(&postgres, 600);
    until("the client has a process of its own", async || postgres.connections().await.unwrap() == 1).await;
    let family = children(before);
    assert!(family.len() > 3, "{family:?}");
    postgres.kill().await.unwrap();
    assert!(!runs(before) && !family.into_iter().any(runs));
    drop(client);
    assert_eq!(postgres.run("SELECT 1").await.unwrap_err().kind(), &ErrorKind::Unavailable);
    postgres.start_again().await.unwrap();
    assert_eq!(postgres.port(), port);
    assert_eq!(postgres.run("SELECT n FROM t").await.unwrap(), "1");
    postgres.shut_down().await.unwrap();
    postgres.start_again_empty().await.unwrap();
    assert!(postgres.run("SELECT n FROM t").await.unwrap_err().message().contains("does not exist"));
    assert_eq!(postgres.run("SHOW work_mem").await.unwrap(), "7MB");
}

#[tokio::test]
async fn a_server_waits_for_the_disk_only_where_it_is_told_to() {
    for (setup, durable) in [(PostgresSetup::new(), "off"), (PostgresSetup::new().durable(), "on")] {
        let postgres = setup.start().await.unwrap();
        assert_eq!(
            postgres.run("SHOW fsync; SHOW full_page_writes").await.unwrap(),
            format!("{durable}\n{durable}")
        );
        assert_eq!(postgres.run("SHOW synchronous_commit; SHOW autovacuum").await.unwrap(), "on\non");
    }
}

#[tokio::test]
async fn a_server_that_is_stopped_answers_when_it_goes_on() {
    let postgres = Postgres::start().await.unwrap();
    let mut client = sleeper(&postgres, 1);
    until("the client waits", async || postgres.connections().await.unwrap() == 1).await;
    postgres.stop().await.unwrap();
    assert_eq!(postgres.run("SELECT 1").await.unwrap_err().kind(), &ErrorKind::TimedOut);
    // That took longer than it sleeps: a process of a client is stopped too.
    assert!(client.0.try_wait().unwrap().is_none());
    postgres.go_on().unwrap();
    assert_eq!(postgres.run("SELECT 1").await.unwrap(), "1");
    assert!(client.0.wait().unwrap().success());
    postgres.stop().await.unwrap();
    postgres.kill().await.unwrap();
    postgres.start_again().await.unwrap();
}

#[tokio::test]
async fn two_servers_do_not_meet() {
    let (one, other) = tokio::join!(Postgres::start(), Postgres::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!((one.port(), one.directory()), (other.port(), other.directory()));
    table(&one).await;
    assert!(other.run("SELECT n FROM t").await.is_err());
    one.kill().await.unwrap();
    table(&other).await;
    one.start_again().await.unwrap();
    assert_eq!(one.run("SELECT n FROM t").await.unwrap(), "1");
}

#[tokio::test]
async fn clients_are_disconnected_and_the_replicas_and_the_harness_are_none() {
    let postgres = Postgres::start().await.unwrap();
    assert_eq!((postgres.connections().await.unwrap(), postgres.disconnect().await.unwrap()), (0, 0));
    let mut clients = [sleeper(&postgres, 600), sleeper(&postgres, 600)];
    until("both are connected", async || postgres.connections().await.unwrap() == 2).await;
    assert_eq!(postgres.disconnect().await.unwrap(), 2);
    for client in &mut clients {
        assert!(!client.0.wait().unwrap().success());
    }
    until("nobody is connected", async || postgres.connections().await.unwrap() == 0).await;
}

#[tokio::test]
async fn an_account_may_connect_and_do_nothing_until_it_is_let() {
    let postgres = Postgres::start().await.unwrap();
    let user = "a \"user\" of us";
    postgres.account(user, PASSWORD).await.unwrap();
    table(&postgres).await;
    let url = postgres.url_of(user, PASSWORD);
    let ask = |sql| client(&url, sql);
    assert_eq!(said(&ask("SELECT current_user")), user);
    assert!(complaint(&ask("SELECT n FROM t")).contains("permission denied"));
    assert!(complaint(&ask("CREATE TABLE mine ()")).contains("permission denied"));
    postgres.run("GRANT SELECT ON t TO \"a \"\"user\"\" of us\"").await.unwrap();
    assert_eq!(said(&ask("SELECT n FROM t")), "1");
    let stranger = client(&postgres.url_of(user, "wrong"), "SELECT 1");
    assert!(complaint(&stranger).contains("password authentication failed"));
    postgres.remove_account(user).await.unwrap();
    assert!(complaint(&ask("SELECT 1")).contains("authentication failed"));
}

#[tokio::test]
async fn no_password_is_shown() {
    let postgres = PostgresSetup::new()
        .setting("application_name", "s3cret")
        .environment("A", "s3cret")
        .start()
        .await
        .unwrap();
    let line = command_line(pid(&postgres)).unwrap();
    for shown in [line, format!("{postgres:?}")] {
        assert!(!shown.contains(postgres.password()) && !shown.contains("s3cret"), "{shown}");
    }
    let look = async {
        let ours = || children(std::process::id()).into_iter().filter_map(command_line);
        // Clients of other tests are children too.
        let waiting = || ours().find(|line| line.contains("ON_ERROR_STOP"));
        until("psql runs", async || waiting().is_some()).await;
        waiting().unwrap_or_default()
    };
    let (_, line) = tokio::join!(postgres.run("SELECT 's3cret', pg_sleep(1)"), look);
    assert!(
        line.contains("psql") && !line.contains(postgres.password()) && !line.contains("s3cret"),
        "{line}"
    );
}

#[tokio::test]
async fn a_server_takes_no_writes_while_it_is_read_only() {
    let postgres = Postgres::start().await.unwrap();
    table(&postgres).await;
    for _ in 0..2 {
        postgres.read_only(true).await.unwrap();
        let refused = client(&postgres.url(), "INSERT INTO t VALUES (2)");
        assert!(complaint(&refused).contains("read-only transaction"), "{}", complaint(&refused));
        assert_eq!(said(&client(&postgres.url(), "SELECT max(n) FROM t")), "1");
        postgres.read_only(false).await.unwrap();
        postgres.run("INSERT INTO t VALUES (1)").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_has_its_limit_of_connections_takes_no_more() {
    let postgres = Postgres::start().await.unwrap();
    postgres.account("client", PASSWORD).await.unwrap();
    let url = postgres.url_of("client", PASSWORD);
    postgres.limit_connections(Some(0)).await.unwrap();
    let refused = client(&url, "SELECT 1");
    assert!(complaint(&refused).contains("too many connections"), "{}", complaint(&refused));
    assert_eq!(postgres.run("SELECT 1").await.unwrap(), "1");
    postgres.limit_connections(None).await.unwrap();
    assert_eq!(said(&client(&url, "SELECT 1")), "1");
}

#[tokio::test]
async fn the_wall_clock_of_a_server_can_be_moved() {
    let wall = WallClock::new().unwrap();
    let postgres = PostgresSetup::new().wall_clock(&wall).start().await.unwrap();
    assert!(off_by(&postgres).await.abs() < 5 * SECOND);
    wall.step(3600 * SECOND).unwrap();
    assert!((off_by(&postgres).await - 3600 * SECOND).abs() < 5 * SECOND);
    wall.step(-7200 * SECOND).unwrap();
    assert!((off_by(&postgres).await + 3600 * SECOND).abs() < 5 * SECOND);
    wall.stop_at(1_500_000_000_123_456).unwrap();
    assert_eq!(time(&postgres).await, 1_500_000_000_123_456);
    postgres.kill().await.unwrap();
    postgres.start_again().await.unwrap();
    assert_eq!(time(&postgres).await, 1_500_000_000_123_456);
}

#[tokio::test]
async fn whoever_speaks_tls_is_let_in_and_nobody_else_unless_that_is_said() {
    let authority = Authority::new().unwrap();
    let tls = Tls::new(&authority, authority.server().unwrap());
    for (setup, plain) in [(PostgresSetup::new(), false), (PostgresSetup::new().also_plain(), true)] {
        let postgres = setup.tls(&tls).start().await.unwrap();
        let secret = over_tls(&postgres, &authority, None);
        assert_eq!(said(&secret), "t");
        let stranger = over_tls(&postgres, &Authority::new().unwrap(), None);
        assert!(complaint(&stranger).contains("certificate verify failed"), "{}", complaint(&stranger));
        let open = client(&format!("{}?sslmode=disable", postgres.url()), "SELECT 1");
        assert_eq!(open.status.success(), plain, "{}", complaint(&open));
        postgres.kill().await.unwrap();
        postgres.start_again().await.unwrap();
        assert_eq!(said(&over_tls(&postgres, &authority, None)), "t");
    }
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused_where_one_is_asked_for() {
    use ClientCertificates::{Optional, Required, Unasked};
    let (authority, foreign) = (Authority::new().unwrap(), Authority::new().unwrap());
    let good = authority.client("client").unwrap();
    let expired = authority.expired_client("client").unwrap();
    let foreign = foreign.client("client").unwrap();
    for (asked, without, with_bad) in
        [(Unasked, true, true), (Optional, true, false), (Required, false, false)]
    {
        let tls = Tls::new(&authority, authority.server().unwrap()).client_certificates(asked);
        let postgres = PostgresSetup::new().tls(&tls).start().await.unwrap();
        let served = |certificate| over_tls(&postgres, &authority, certificate).status.success();
        assert!(served(Some(&good)), "{asked:?}");
        assert_eq!(served(None), without, "{asked:?}");
        assert_eq!(served(Some(&expired)), with_bad, "{asked:?}");
        assert_eq!(served(Some(&foreign)), with_bad, "{asked:?}");
    }
}

#[tokio::test]
async fn a_server_on_an_island_is_cut_off_and_its_socket_is_not() {
    let island = match Island::new() {
        Err(error) if *error.kind() == ErrorKind::Unsupported => return,
        island => island.unwrap(),
    };
    let postgres = PostgresSetup::new().on(&island).start().await.unwrap();
    let url = format!("{}?connect_timeout=2", postgres.url());
    assert_eq!(said(&client(&url, "SELECT 1")), "1");
    island.cut(Way::Both).unwrap();
    assert!(!client(&url, "SELECT 1").status.success());
    assert_eq!(postgres.run("SELECT 1").await.unwrap(), "1");
    island.heal().unwrap();
    assert_eq!(said(&client(&url, "SELECT 1")), "1");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = PostgresSetup::new().setting("no_such_setting", "1").start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_is_dropped() {
    for stopped in [false, true] {
        let postgres = Postgres::start().await.unwrap();
        let client = sleeper(&postgres, 600);
        until("the client is connected", async || postgres.connections().await.unwrap() == 1).await;
        let (first, directory) = (pid(&postgres), postgres.directory().to_owned());
        let (family, memory) = (children(first), memory(&postgres));
        if stopped {
            postgres.stop().await.unwrap();
        }
        assert!(runs(first) && directory.exists() && memory_is_there(&memory));
        let (clock, start) = (SystemClock::new(), SystemClock::new().boot());
        drop(postgres);
        assert!(!runs(first) && !family.into_iter().any(runs) && !directory.exists());
        assert!(!memory_is_there(&memory));
        let took = clock.boot().since(start);
        assert!(took < Duration::from_secs(4), "it did not end at once, but in {took:?}");
        drop(client);
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_was_killed() {
    let postgres = Postgres::start().await.unwrap();
    let (memory, directory) = (memory(&postgres), postgres.directory().to_owned());
    postgres.kill().await.unwrap();
    drop(postgres);
    assert!(!directory.exists() && !memory_is_there(&memory));
}

/// In the variable: where the child says what it has started.
const VICTIM: &str = "POSTGRES_TEST_VICTIM";

#[tokio::test]
async fn a_server_dies_with_a_test_that_is_killed() {
    if let Ok(file) = std::env::var(VICTIM) {
        let (going, stopped) = (Postgres::start().await.unwrap(), Postgres::start().await.unwrap());
        stopped.stop().await.unwrap();
        let lines = [&going, &stopped]
            .map(|server| format!("{} {} {}\n", pid(server), memory(server), server.directory().display()));
        std::fs::write(format!("{file}.new"), lines.concat()).unwrap();
        std::fs::rename(format!("{file}.new"), file).unwrap();
        return std::future::pending().await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("started");
    // The servers' user has to get there.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), everybody).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_dies_with_a_test_that_is_killed", "--nocapture"])
        .env(VICTIM, &file)
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the child has started its servers", async || file.exists()).await;
    let lines = std::fs::read_to_string(&file).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    for line in lines.lines() {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let (pid, data) = (words[0].parse().unwrap(), PathBuf::from(words[2]));
        until("the server is gone", async || !runs(pid)).await;
        until("its directory is gone", async || !data.exists()).await;
        assert!(!memory_is_there(words[1]));
    }
    let left = || std::fs::read_dir(directory.path()).unwrap().count();
    until("what servers are copied from is gone", async || left() == 1).await;
}

/// One row in one table.
async fn table(postgres: &Postgres) {
    postgres.run("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
}

/// A client of its own, for this URL or whatever else `psql` takes for a database.
fn client(url: &str, sql: &str) -> Output {
    psql(url).args(["-c", sql]).output().unwrap()
}

fn psql(url: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-q", "-w", "-d", url]).stdin(Stdio::null());
    command
}

/// A client that waits for so many seconds.
fn sleeper(postgres: &Postgres, seconds: u32) -> Waiting {
    let mut command = psql(&postgres.url_of(postgres.user_name(), ""));
    command.env("PGPASSWORD", postgres.password()).args(["-c", &format!("SELECT pg_sleep({seconds})")]);
    Waiting(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A client that ends with its test.
struct Waiting(std::process::Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks whether the connection speaks TLS.
fn over_tls(postgres: &Postgres, authority: &Authority, certificate: Option<&Certificate>) -> Output {
    let mut command = psql(&postgres.url());
    command
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", authority.certificate())
        .args(["-c", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"]);
    if let Some(certificate) = certificate {
        command.env("PGSSLCERT", certificate.certificate()).env("PGSSLKEY", certificate.key());
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", complaint(output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// By how many microseconds the server is ahead of the machine.
async fn off_by(postgres: &Postgres) -> i64 {
    let theirs = time(postgres).await;
    theirs - i64::try_from(SystemClock::new().wall_micros()).unwrap()
}

async fn time(postgres: &Postgres) -> i64 {
    let micros = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    postgres.run(micros).await.unwrap().parse().unwrap()
}

fn pid(postgres: &Postgres) -> u32 {
    postgres.server().unwrap().pid()
}

fn command_line(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()
}

/// Also those whose parent has not noticed yet do not run any more.
fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

/// Its state and its parent: number, name in parentheses, state, parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

/// The number of what it has from the kernel.
fn memory(postgres: &Postgres) -> String {
    let file = std::fs::read_to_string(postgres.directory().join("data/postmaster.pid")).unwrap();
    file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn memory_is_there(number: &str) -> bool {
    let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    all.lines().any(|line| line.split_whitespace().nth(1) == Some(number))
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
