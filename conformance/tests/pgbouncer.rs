//! A PgBouncer that the harness starts: its clients share connections, each for as long as they are told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lock_conformance::servers::{PgBouncer, PgBouncerSetup, PoolMode, Postgres};
use lock_core::{Clock, ErrorKind, SystemClock};

const PASSWORD: &str = "s3cret \"with\" and \u{00e9}";
const MINE: &str = "SELECT pg_backend_pid()";

#[tokio::test]
async fn a_connection_is_a_clients_for_a_transaction() {
    let postgres = Postgres::start().await.unwrap();
    let pgbouncer = PgBouncerSetup::new().start_before(&postgres).await.unwrap();
    let (mut one, mut other) = (Session::with(&pgbouncer), Session::with(&pgbouncer));
    let first = one.ask(MINE);
    assert_eq!(other.ask(&format!("BEGIN; {MINE}")), first);
    let second = one.ask(MINE);
    assert_ne!(second, first);
    assert_eq!(other.ask(MINE), first);
    assert_eq!(other.ask("COMMIT; SELECT 'ended'"), "ended");
}

#[tokio::test]
async fn a_connection_is_a_clients_until_it_leaves_where_that_is_asked_for() {
    let postgres = Postgres::start().await.unwrap();
    let setup = PgBouncerSetup::new().pool_mode(PoolMode::Session);
    let pgbouncer = setup.start_before(&postgres).await.unwrap();
    let (mut one, mut other) = (Session::with(&pgbouncer), Session::with(&pgbouncer));
    let first = one.ask(MINE);
    assert_ne!(other.ask(MINE), first);
    assert_eq!(one.ask(MINE), first);
    drop(one);
    until("the connection is free", async || Session::with(&pgbouncer).ask(MINE) == first).await;
}

#[tokio::test]
async fn a_connection_is_a_clients_for_a_statement_where_that_is_asked_for() {
    let postgres = Postgres::start().await.unwrap();
    let setup = PgBouncerSetup::new().pool_mode(PoolMode::Statement);
    let pgbouncer = setup.start_before(&postgres).await.unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap(), "1");
    let refused = pgbouncer.run("BEGIN; SELECT 1").await.unwrap_err();
    assert!(refused.message().contains("statement pooling"), "{refused}");
}

#[tokio::test]
async fn clients_wait_for_a_free_connection() {
    let postgres = Postgres::start().await.unwrap();
    let setup = PgBouncerSetup::new().pool_size(1).setting("query_wait_timeout", "1");
    let pgbouncer = setup.start_before(&postgres).await.unwrap();
    let mut holder = Session::with(&pgbouncer);
    holder.ask(&format!("BEGIN; {MINE}"));
    let refused = pgbouncer.run("SELECT 1").await.unwrap_err();
    assert!(refused.message().contains("query_wait_timeout"), "{refused}");
    assert_eq!(postgres.connections().await.unwrap(), 1);
    holder.ask("COMMIT; SELECT 1");
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn accounts_are_let_in_by_their_passwords_and_nobody_else() {
    let postgres = Postgres::start().await.unwrap();
    postgres.account("client", PASSWORD).await.unwrap();
    let setup = PgBouncerSetup::new().account("client", PASSWORD);
    assert!(!format!("{setup:?}").contains("s3cret"));
    let pgbouncer = setup.start_before(&postgres).await.unwrap();
    let url = |password| pgbouncer.url_of("client", password);
    assert_eq!(Session::of(&url(PASSWORD)).ask("SELECT current_user"), "client");
    assert!(!psql(&url("wrong")).args(["-c", "SELECT 1"]).output().unwrap().status.success());
    assert!(!format!("{pgbouncer:?}").contains(postgres.password()));
    let pools = pgbouncer.command("SHOW POOLS").await.unwrap();
    assert!(pools.contains("postgres|client|") && pools.contains("|transaction"), "{pools}");
}

#[tokio::test]
async fn it_is_killed_started_again_stopped_and_goes_on() {
    let postgres = Postgres::start().await.unwrap();
    let pgbouncer = PgBouncerSetup::new().start_before(&postgres).await.unwrap();
    assert_eq!(pgbouncer.url(), postgres.url().replace(&postgres.address(), &pgbouncer.address()));
    assert_eq!(pgbouncer.start_again().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    pgbouncer.kill().await.unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap_err().kind(), &ErrorKind::Unavailable);
    pgbouncer.start_again().await.unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap(), "1");
    pgbouncer.stop().await.unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap_err().kind(), &ErrorKind::TimedOut);
    pgbouncer.go_on().unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap(), "1");
    pgbouncer.shut_down().await.unwrap();
    let directory = pgbouncer.directory().to_owned();
    drop(pgbouncer);
    assert!(!directory.exists());
}

#[tokio::test]
async fn it_finds_a_server_again_that_was_killed() {
    let postgres = Postgres::start().await.unwrap();
    let pgbouncer = PgBouncerSetup::new().start_before(&postgres).await.unwrap();
    assert_eq!(pgbouncer.run("SELECT 1").await.unwrap(), "1");
    postgres.kill().await.unwrap();
    assert!(pgbouncer.run("SELECT 1").await.is_err());
    postgres.start_again().await.unwrap();
    until("it is through again", async || pgbouncer.run("SELECT 1").await.is_ok()).await;
}

#[tokio::test]
async fn its_clients_are_disconnected() {
    let postgres = Postgres::start().await.unwrap();
    let pgbouncer = PgBouncerSetup::new().start_before(&postgres).await.unwrap();
    let mut session = Session::with(&pgbouncer);
    session.ask(MINE);
    match pgbouncer.disconnect() {
        Err(error) if *error.kind() == ErrorKind::Unsupported => return,
        ended => assert_eq!(ended.unwrap(), 1),
    }
    assert_eq!(session.ask(MINE), "");
}

/// A client that stays connected from one statement to the next.
struct Session {
    psql: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn with(pgbouncer: &PgBouncer) -> Session {
        Session::of(&pgbouncer.url())
    }

    fn of(url: &str) -> Session {
        let mut psql =
            psql(url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (psql.stdin.take().unwrap(), psql.stdout.take().unwrap());
        Session { psql, input, output: BufReader::new(output) }
    }

    /// One line of an answer; none where there is no connection any more.
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.input, "{statement};").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

fn psql(url: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-d", url]).stdin(Stdio::null());
    command
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
