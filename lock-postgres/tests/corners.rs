//! Corners: what a lock in Postgres must not do, where the way there is narrow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_conformance::servers::{Postgres, PostgresSetup};
use lock_core::{
    Backend, Certainty, Claim, Claimed, Clock, Connector, Domain, End, ErrorKind, Event, EventSink,
    HolderInfo, LockClient, LockKey, Mode, Note, Permit, Released, Result, Session, SessionId,
    SessionOptions, StoreUrl, SystemClock, Ticket,
};
use lock_postgres::PostgresConnector;
use lock_postgres::sqlx::postgres::PgConnection;
use lock_postgres::sqlx::{AssertSqlSafe, Connection, query};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

/// On which nobody listens.
const CHANNEL: &str = "fencepost_00000000000000000000000000000000";
const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// A session without an engine, and what it is told.
struct Peer {
    session: Arc<dyn Session>,
    events: UnboundedReceiver<Event>,
}

impl Peer {
    async fn of(backend: &Arc<dyn Backend>) -> Peer {
        Peer::named(backend, SessionId::random().unwrap()).await
    }

    async fn named(backend: &Arc<dyn Backend>, id: SessionId) -> Peer {
        let (send, events) = unbounded_channel();
        let sink = EventSink::new(move |event| drop(send.send(event)));
        let options = SessionOptions::new(id, Domain(0), TTL, HolderInfo::new(1));
        Peer { session: backend.open(&options, sink).await.unwrap().session, events }
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.session.claim(claim).await
    }

    async fn release(&self, claim: &Claim, certainty: Certainty) -> Released {
        self.session.release(&claim.reference(), certainty).await.unwrap()
    }

    async fn holds(&self, claim: &Claim) {
        let claimed = self.claim(claim).await.unwrap();
        assert!(is_granted(&claimed), "{claimed:?}");
    }

    async fn waits(&self, claim: &Claim) {
        let claimed = self.claim(claim).await.unwrap();
        assert!(matches!(claimed, Claimed::Queued { .. }), "{claimed:?}");
    }

    fn row(&self) -> String {
        format!("id = '\\x{}'", self.session.id())
    }
}

fn is_granted(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::Granted { .. })
}

async fn in_time<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    lock_core::within(&SystemClock::new(), time, future).await
}

async fn sleep(time: Duration) {
    SystemClock::new().sleep(time).await;
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let done = in_time(PATIENCE, async {
        while !is_so().await {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(done.is_some(), "not within {PATIENCE:?}: {what}");
}

/// Lets a future go on until it has to wait.
async fn step<T>(future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending(), "it has not waited");
        Poll::Ready(())
    })
    .await;
}

/// From now on every commit waits for a standby that is not there. Returns whoever found that out, and waits.
async fn commits_wait(server: &Postgres) -> JoinSet<()> {
    let mut connection = transaction(server, "CREATE TABLE waits ()").await;
    query("COMMIT").execute(&mut connection).await.unwrap();
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    server.run("SELECT pg_reload_conf()").await.unwrap();
    let committing = begun(async move {
        while query("INSERT INTO waits DEFAULT VALUES").execute(&mut connection).await.is_ok() {}
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("a commit waits", async || number(server, waits).await == 1).await;
    committing
}

/// It goes on by itself, until this is dropped.
fn begun<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    JoinSet::from_iter([future])
}

async fn ended<T: 'static>(mut task: JoinSet<T>) -> T {
    task.join_next().await.unwrap().unwrap()
}

async fn backend_at(url: &str) -> Arc<dyn Backend> {
    PostgresConnector::new().connect(&mut StoreUrl::parse(url).unwrap()).await.unwrap()
}

async fn backend(server: &Postgres) -> Arc<dyn Backend> {
    backend_at(&server.url()).await
}

fn key() -> LockKey {
    LockKey::new("k").unwrap()
}

fn mutex_on(name: &str, ticket: u64) -> Claim {
    Claim::new(LockKey::new(name).unwrap(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX)
}

fn mutex(ticket: u64) -> Claim {
    mutex_on("k", ticket)
}

async fn number(server: &Postgres, sql: &str) -> i64 {
    server.run(sql).await.unwrap().trim().parse().unwrap()
}

/// How many of the server's connections wait for a lock in this statement.
async fn waiting(server: &Postgres, statement: &str) -> i64 {
    number(
        server,
        &format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{statement}%' AND pid <> pg_backend_pid()"
        ),
    )
    .await
}

/// The server's process behind the only connection for statements.
async fn process_of_the_line(server: &Postgres) -> i64 {
    number(
        server,
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
         AND query LIKE '%fencepost%' AND query NOT LIKE '%LISTEN%' AND query <> 'SELECT 1'",
    )
    .await
}

fn signal(process: i64, name: &str) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

async fn transaction(server: &Postgres, sql: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    query("BEGIN").execute(&mut connection).await.unwrap();
    query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection
}

async fn commit(mut connection: PgConnection) {
    query("COMMIT").execute(&mut connection).await.unwrap();
}

/// A copy is on its way on a connection that hangs. Another copy waits for the same connection, is never sent there, and is answered on
/// the next one: that says nothing of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_never_sent_answers_for_no_other() {
    let server = Postgres::start().await.unwrap();
    let backend = backend(&server).await;
    let one = Peer::of(&backend).await;
    one.holds(&mutex(1)).await;
    one.release(&mutex(1), Certainty::Settled).await;
    let process = process_of_the_line(&server).await;
    signal(process, "-STOP");
    let claim = mutex(2);
    assert!(in_time(Duration::from_millis(100), one.claim(&claim)).await.is_none());
    let given_up = in_time(Duration::from_millis(500), backend.inspect(&claim.key));
    let (second, _) = tokio::join!(one.claim(&claim), given_up);
    let released = in_time(5 * SECOND, one.release(&claim, Certainty::MaybeInFlight)).await;
    signal(process, "-CONT");
    assert!(is_granted(&second.unwrap()));
    assert_eq!(released, Some(Released::Done));
    until("the first connection has ended", async || {
        number(&server, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}")).await == 0
    })
    .await;
    let state = backend.inspect(&key()).await.unwrap();
    assert!(state.holders.is_empty(), "granted after its release: {state:?}");
}

/// A claim that goes round again because a session was in its way that had expired.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_under_way_is_withdrawn_too() {
    let server = Postgres::start().await.unwrap();
    let backend = backend(&server).await;
    let (dead, one) = (Peer::of(&backend).await, Peer::of(&backend).await);
    dead.holds(&mutex(1)).await;
    server.run(&format!("UPDATE fencepost.session SET expires_at = 0 WHERE {}", dead.row())).await.unwrap();
    let renewal =
        transaction(&server, &format!("SELECT FROM fencepost.session WHERE {} FOR UPDATE", dead.row())).await;
    let (session, claim) = (one.session.clone(), mutex(2).waiting(true));
    let claiming = begun({
        let claim = claim.clone();
        async move { session.claim(&claim).await }
    });
    until("it ends the session", async || waiting(&server, "end_sessions").await == 1).await;
    let reference = claim.reference();
    let mut releasing = Box::pin(one.session.release(&reference, Certainty::MaybeInFlight));
    step(&mut releasing).await;
    commit(renewal).await;
    assert_eq!(releasing.await.unwrap(), Released::Gone);
    let claimed = ended(claiming).await;
    let state = backend.inspect(&key()).await.unwrap();
    assert!(state.holders.is_empty(), "granted after its release: {claimed:?}, {state:?}");
}

/// Its calls are given up sooner than a connection becomes suspect.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_hangs_is_given_up_by_the_impatient_too() {
    let server = Postgres::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await)
        .ttl(Duration::from_millis(600))
        .call_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap().release().await.unwrap();
    let process = process_of_the_line(&server).await;
    signal(process, "-STOP");
    let mut last = None;
    let recovered = in_time(10 * SECOND, async {
        loop {
            match client.mutex("k").unwrap().try_acquire().await {
                Ok(Ok(guard)) => break guard,
                other => last = Some(format!("{other:?}")),
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    signal(process, "-CONT");
    assert!(recovered.is_some(), "for ten seconds, while the server is up: {last:?}");
}

/// Claims that happen to be asked together have nothing to do with each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_the_server_refuses_is_its_own_claims_matter() {
    let server = Postgres::start().await.unwrap();
    let backend = backend(&server).await;
    let one = Peer::of(&backend).await;
    one.holds(&mutex_on("slow", 1)).await;
    one.release(&mutex_on("slow", 1), Certainty::Settled).await;
    let slow = transaction(&server, "SELECT FROM fencepost.lock FOR UPDATE").await;
    let spawn = |claim: Claim| {
        let session = one.session.clone();
        begun(async move { session.claim(&claim).await })
    };
    let first = spawn(mutex_on("slow", 2));
    until("the first waits", async || waiting(&server, "apply").await == 1).await;
    let (poisoned, innocent) =
        (spawn(mutex_on("a", 3).note(Some(Note::new("a\0b").unwrap()))), spawn(mutex_on("b", 4)));
    sleep(Duration::from_millis(200)).await;
    commit(slow).await;
    assert!(is_granted(&ended(first).await.unwrap()));
    let _ = ended(poisoned).await;
    let innocent = ended(innocent).await;
    assert!(innocent.as_ref().is_ok_and(is_granted), "{innocent:?}");
}

/// Scenario 38: whatever was deleted there, nobody hangs for ever, and no connection of the server's is kept busy by it.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_were_emptied_keep_nobody_busy() {
    let server = Postgres::start().await.unwrap();
    let client =
        LockClient::builder(backend(&server).await).call_timeout(SECOND).ttl(5 * SECOND).build().unwrap();
    client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap().release().await.unwrap();
    server
        .run("TRUNCATE fencepost.lock, fencepost.waiter, fencepost.withdrawn, fencepost.highest")
        .await
        .unwrap();
    let _ = in_time(6 * SECOND, client.mutex("k").unwrap().acquire()).await;
    let busy = number(
        &server,
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%apply%' AND pid <> pg_backend_pid()",
    )
    .await;
    let _ = server
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%apply%' AND pid <> pg_backend_pid()")
        .await;
    assert_eq!(busy, 0, "connections of the server that turn in circles");
}

/// Whoever may connect to the database, and do nothing there, decides over no lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_keeps_no_lock() {
    let server = Postgres::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await).build().unwrap();
    server.run("CREATE ROLE stranger LOGIN PASSWORD 'x'").await.unwrap();
    let mut stranger = PgConnection::connect(&server.url_of("stranger", "x")).await.unwrap();
    query("SELECT pg_advisory_lock_shared(hashtextextended(encode('k', 'hex'), 7310309943203851))")
        .execute(&mut stranger)
        .await
        .unwrap();
    let guard = client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    let released = guard.release().await;
    assert!(matches!(released, Ok(End::Released)), "{released:?}");
}

/// Two schemas in one database are two stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_another_schema_is_none_here() {
    let server = Postgres::start().await.unwrap();
    let here = LockClient::builder(backend(&server).await).build().unwrap();
    let there =
        LockClient::builder(backend_at(&format!("{}?schema=other", server.url())).await).build().unwrap();
    let fenced = here.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    let guard = there.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    let mut data = PgConnection::connect(&server.url()).await.unwrap();
    let mut transaction = data.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &fenced).await.unwrap();
    let released = guard.release().await;
    assert!(matches!(released, Ok(End::Released)), "{released:?}");
}

/// Whoever may create schemas made this one first: he is not to get the rights of whoever fills it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_somebody_elses_is_not_filled() {
    let server = Postgres::start().await.unwrap();
    server.run("CREATE ROLE mallory LOGIN PASSWORD 'x'").await.unwrap();
    server.run("GRANT CREATE ON DATABASE postgres TO mallory").await.unwrap();
    let mut mallory = PgConnection::connect(&server.url_of("mallory", "x")).await.unwrap();
    query("CREATE SCHEMA fencepost").execute(&mut mallory).await.unwrap();
    let mut url = StoreUrl::parse(&server.url()).unwrap();
    // To refuse it would be right, too.
    let Ok(backend) = PostgresConnector::new().connect(&mut url).await else { return };
    for trick in [
        "DROP FUNCTION fencepost.clock()",
        "CREATE FUNCTION fencepost.clock() RETURNS bigint LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; RETURN 1; END $$",
    ] {
        let _ = query(trick).execute(&mut mallory).await;
    }
    let sink = EventSink::new(|_| ());
    let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), TTL, HolderInfo::new(1));
    let _ = backend.open(&options, sink).await;
    let rights = server.run("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'").await.unwrap();
    assert_eq!(rights.trim(), "f", "mallory has become a superuser");
}

/// Nor one that is a group's, of which others are members too; nor one in which somebody left something while he might.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_partly_somebody_elses_is_not_used() {
    const TRAP: &str = "schema_version() RETURNS integer LANGUAGE plpgsql AS \
                        $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN 1; END $$";
    let server = Postgres::start().await.unwrap();
    for make in [
        "CREATE ROLE victim LOGIN PASSWORD 'x'; CREATE ROLE mallory; CREATE ROLE team; GRANT team TO victim, mallory",
        "CREATE TABLE public.caught (who text); GRANT INSERT ON public.caught TO PUBLIC",
        "CREATE SCHEMA of_the_team AUTHORIZATION team; CREATE SCHEMA of_the_victim AUTHORIZATION victim",
        "GRANT CREATE ON SCHEMA of_the_victim TO mallory; GRANT USAGE ON SCHEMA of_the_team TO PUBLIC",
    ] {
        server.run(make).await.unwrap();
    }
    for schema in ["of_the_team", "of_the_victim"] {
        server.run(&format!("SET ROLE mallory; CREATE FUNCTION {schema}.{TRAP}")).await.unwrap();
    }
    server.run("REVOKE CREATE ON SCHEMA of_the_victim FROM mallory").await.unwrap();
    for schema in ["of_the_team", "of_the_victim"] {
        let mut url = StoreUrl::parse(&format!("{}?schema={schema}", server.url_of("victim", "x"))).unwrap();
        let error = PostgresConnector::new().connect(&mut url).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
    }
    assert_eq!(
        number(&server, "SELECT count(*) FROM public.caught").await,
        0,
        "somebody else's function was run"
    );
}

/// A hand-over that no standby has, as long as one is asked for, is told to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_may_not_have_is_not_shown() {
    let server = Postgres::start().await.unwrap();
    let (one, two) = (backend(&server).await, backend(&server).await);
    let client = LockClient::builder(one).ttl(60 * SECOND).call_timeout(SECOND).build().unwrap();
    let next = Peer::of(&two).await;
    let held = client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    next.waits(&mutex(1).waiting(true)).await;
    let _waits = commits_wait(&server).await;
    let holder = "SELECT (holders[1]).ticket FROM fencepost.lock WHERE key = 'k'";
    let before = server.run(holder).await.unwrap();
    assert!(held.release().await.is_err());
    for _ in 0..3 {
        let _ = client.mutex("another").unwrap().try_acquire().await;
        assert_eq!(server.run(holder).await.unwrap(), before, "it was handed over");
    }
    server.run("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    server.run("SELECT pg_reload_conf()").await.unwrap();
    until("it is handed over in the end", async || server.run(holder).await.unwrap() != before).await;
}

/// "Opening the same session again is the retry": either of the two will do.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_opening_hears_when_the_first_has_gone() {
    let server = Postgres::start().await.unwrap();
    let backend = backend(&server).await;
    let id = SessionId::random().unwrap();
    let (first, mut second) = (Peer::named(&backend, id).await, Peer::named(&backend, id).await);
    let holder = Peer::of(&backend).await;
    holder.holds(&mutex(1)).await;
    second.waits(&mutex(2).waiting(true)).await;
    drop(first);
    holder.release(&mutex(1), Certainty::Settled).await;
    let event = in_time(3 * SECOND, second.events.recv()).await;
    assert!(matches!(event, Some(Some(Event::Granted { .. }))), "{event:?}");
}

/// The runtime ended that had the connection for news. Whoever lives on another one has missed something.
#[test]
fn another_runtime_is_told_that_it_may_have_missed_something() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let server = second.block_on(Postgres::start()).unwrap();
    let shared = first.block_on(backend(&server));
    let own = second.block_on(backend(&server));
    let (mut one, holder) = second.block_on(async { (Peer::of(&shared).await, Peer::of(&own).await) });
    second.block_on(async {
        holder.holds(&mutex(1)).await;
        one.waits(&mutex(2).waiting(true)).await;
    });
    drop(first);
    second.block_on(async {
        holder.release(&mutex(1), Certainty::Settled).await;
        // It makes the connection for news anew.
        one.session.renew(&[]).await.unwrap();
        let event = in_time(3 * SECOND, one.events.recv()).await;
        assert!(matches!(event, Some(Some(Event::Gap | Event::Granted { .. }))), "{event:?}");
    });
}

/// What was refused leaves nothing behind in the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_refused_is_forgotten() {
    let server = PostgresSetup::new().setting("track_functions", "all").start().await.unwrap();
    let backend = backend(&server).await;
    let (holder, one) = (Peer::of(&backend).await, Peer::of(&backend).await);
    for number in 0..120 {
        let name = format!("k{number}");
        holder.holds(&mutex_on(&name, number)).await;
        let key = LockKey::new(&name).unwrap();
        let wide = Claim::new(key, Ticket(number), Mode::Shared, Permit::new(1, 2).unwrap());
        assert!(one.claim(&wide).await.is_err());
    }
    let calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'settle_keys'";
    one.session.close().await.unwrap();
    // The server counts a connection's calls when that ends.
    drop((one, holder, backend));
    sleep(2 * SECOND).await;
    assert!(
        number(
            &server,
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname LIKE 'apply%'"
        )
        .await
            > 0
    );
    assert_eq!(number(&server, calls).await, 0, "it remembered the keys of all of them, to settle them");
}

/// Something keeps one key's row. Its clients keep what else they hold, and take no more connections than they have.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_kept_takes_no_connections() {
    let server = Postgres::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await)
        .ttl(3 * SECOND)
        .call_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap().release().await.unwrap();
    let held = client.mutex("another").unwrap().try_acquire().await.unwrap().unwrap();
    let kept = transaction(&server, "SELECT FROM fencepost.lock WHERE key = 'k' FOR UPDATE").await;
    let before = server.connections().await.unwrap();
    for _ in 0..12 {
        let _ = client.mutex("k").unwrap().try_acquire().await;
    }
    let after = server.connections().await.unwrap();
    let state = held.state();
    commit(kept).await;
    assert!(state.is_held(), "{state:?}");
    assert!(after <= before + 2, "{before} connections before, {after} after");
}

/// The same where nobody has any right to a row: a commit waits for a standby that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_away_takes_no_connections() {
    let server = Postgres::start().await.unwrap();
    let client =
        LockClient::builder(backend(&server).await).call_timeout(Duration::from_millis(500)).build().unwrap();
    client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap().release().await.unwrap();
    let _waits = commits_wait(&server).await;
    let before = server.connections().await.unwrap();
    for number in 0..12 {
        let _ = client.mutex(format!("k{number}")).unwrap().try_acquire().await;
    }
    let after = server.connections().await.unwrap();
    assert!(after <= before + 2, "{before} connections before, {after} after");
}

/// A renewal waits for nobody's claims, whatever the TTL: something keeps the row of one key, and a hold on another one lives on.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waits_for_a_row_ends_no_other_hold() {
    let server = Postgres::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await).ttl(Duration::from_millis(800)).build().unwrap();
    client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap().release().await.unwrap();
    let held = client.mutex("another").unwrap().try_acquire().await.unwrap().unwrap();
    let kept = transaction(&server, "SELECT FROM fencepost.lock WHERE key = 'k' FOR UPDATE").await;
    let lock = client.mutex("k").unwrap();
    let claiming = begun(async move { lock.acquire().await });
    sleep(4 * SECOND).await;
    let state = held.state();
    commit(kept).await;
    drop(claiming);
    assert!(state.is_held(), "{state:?}");
}

/// A session that was closed is over: neither a late copy of its opening nor one of a claim that was withdrawn brings anything back.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_an_opening_brings_nothing_back() {
    let server = Postgres::start().await.unwrap();
    let backend = backend(&server).await;
    let one = Peer::of(&backend).await;
    one.release(&mutex(1), Certainty::MaybeInFlight).await;
    one.session.close().await.unwrap();
    // What was sent on a connection that was given up, and runs now.
    let id = one.session.id();
    server.run(&format!("SELECT fencepost.open('\\x{id}', 60000000, '{CHANNEL}', '1,,,,,')")).await.unwrap();
    server
        .run(&format!(
            "SELECT * FROM fencepost.apply('{{c}}', ARRAY['\\x{id}'::bytea], '{{1}}', ARRAY['k'::bytea], '{{1}}', '{{1}}', '{{s}}', '{{0}}', '{{x}}', '{{\"\"}}')"
        ))
        .await
        .unwrap();
    let state = backend.inspect(&key()).await.unwrap();
    assert!(state.holders.is_empty(), "{state:?}");
}

/// What a role may not read is unknown to it: here all standbys are synchronous.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_may_not_see_of_standbys_is_unknown() {
    let server = Postgres::start().await.unwrap();
    let _ = backend(&server).await;
    server.account("app", "x").await.unwrap();
    server
        .run("GRANT USAGE ON SCHEMA fencepost TO app; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fencepost TO app")
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut standby = Command::new("/usr/lib/postgresql/15/bin/pg_receivewal")
        .args(["--synchronous", "-D"])
        .arg(directory.path())
        .args(["-d", &format!("{}?application_name=standby", server.url())])
        .spawn()
        .unwrap();
    until("it follows", async || number(&server, "SELECT count(*) FROM pg_stat_replication").await == 1)
        .await;
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'").await.unwrap();
    server.run("SELECT pg_reload_conf()").await.unwrap();
    until("it is synchronous", async || {
        number(&server, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").await == 1
    })
    .await;
    let findings = backend_at(&server.url_of("app", "x")).await.probe().await.unwrap();
    standby.kill().unwrap();
    standby.wait().unwrap();
    let unsafe_standbys: Vec<_> = findings
        .iter()
        .filter(|f| format!("{f:?}").contains("Unsafe") && format!("{f:?}").contains("standbys"))
        .collect();
    assert!(unsafe_standbys.is_empty(), "{unsafe_standbys:?}");
}

/// A fence outside a transaction protects nothing: that is an error, and no silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_outside_a_transaction_is_refused() {
    let server = Postgres::start().await.unwrap();
    let client = LockClient::builder(backend(&server).await).build().unwrap();
    let guard = client.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    let mut data = PgConnection::connect(&server.url()).await.unwrap();
    let fenced = lock_postgres::fence(&mut data, &guard).await;
    assert!(fenced.is_err(), "it stood until the end of its own statement");
}

/// Nobody's URL shows its password, wherever it stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_query_is_not_shown() {
    let mut url =
        StoreUrl::parse("postgres://user@127.0.0.1:1/db?password=hunter2&connect_timeout=1s").unwrap();
    assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
    let _ = url.take("connect_timeout");
    let error = PostgresConnector::new().connect(&mut url).await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
}

/// "The next token of a key whose row is gone is above every one that it had." The clock stands still, so that only what is remembered
/// counts; and the row comes and goes while somebody else is about to make it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_made_begins_behind_the_one_that_has_just_gone() {
    let server = Postgres::start().await.unwrap();
    let _ = backend(&server).await;
    server
        .run("CREATE OR REPLACE FUNCTION fencepost.clock() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT 1000000000000000'")
        .await
        .unwrap();
    server
        .run(&format!(
            "SELECT fencepost.open('\\x01', 1000, '{CHANNEL}', 'i'), fencepost.open('\\x02', 1000, '{CHANNEL}', 'i')"
        ))
        .await
        .unwrap();
    // For longer than this test takes to see that it waits.
    server.run("ALTER FUNCTION fencepost.apply SET lock_timeout = '20s'").await.unwrap();
    let asked = |op: &str, session: &str| {
        format!(
            "SELECT number FROM fencepost.apply('{{{op}}}', ARRAY['\\x{session}'::bytea], '{{1}}', ARRAY['k'::bytea], '{{1}}', '{{1}}', \
             '{{s}}', '{{0}}', '{{x}}', '{{\"\"}}')"
        )
    };
    // Made, granted, given back and swept, and not committed yet.
    let mut other = transaction(&server, &asked("c", "02")).await;
    query(AssertSqlSafe(asked("r", "02"))).execute(&mut other).await.unwrap();
    query("SELECT fencepost.sweep('', 100, -1)").execute(&mut other).await.unwrap();
    let claim = asked("c", "01");
    let (granted, ()) = tokio::join!(number(&server, &claim), async {
        until("it is about to make the row", async || waiting(&server, "apply").await == 1).await;
        commit(other).await;
    });
    let before = number(&server, "SELECT fence FROM fencepost.highest").await;
    assert!(granted > before, "granted under {before}, and then under {granted}");
}
