//! Who may do what: the owner of the schema needs CREATE on the database, everybody else its functions and no table, and whatever he
//! brings along is not run with the owner's rights.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fixtures;

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::Postgres;
use lock_core::{
    Backend, Certainty, Claim, Claimed, Domain, ErrorKind, Event, EventSink, HolderInfo, LockClient, LockKey,
    Mode, Permit, Query, Result, SessionId, SessionOptions, Term, Ticket,
};
use lock_postgres::sqlx::{self, AssertSqlSafe, Connection, Executor, PgConnection};

use crate::fixtures::clients::{LONG, PATIENCE, SECOND, connect, session, within};
use crate::fixtures::{OWNER, PASSWORD, prepare, server_setup, user};

const TABLES: [&str; 7] = ["lock", "waiter", "session", "withdrawn", "highest", "mark", "migration"];

/// Denied, by the server's code for it.
const DENIED: &str = "42501";

/// A server whose schema the owner has made, who is no superuser.
async fn server() -> Postgres {
    let server = server_setup().start().await.unwrap();
    prepare(&server.address()).await.unwrap();
    let owner = "SELECT nspowner::regrole, (SELECT rolsuper FROM pg_roles WHERE oid = nspowner) \
                 FROM pg_namespace WHERE nspname = 'fencepost'";
    assert_eq!(server.run(owner).await.unwrap(), format!("{OWNER}|f"));
    server
}

fn url(server: &Postgres, user: &str) -> String {
    format!("{}?migrate=never", server.url_of(user, PASSWORD))
}

/// Somebody with this name who has only the functions, and asks for himself.
async fn asking(server: &Postgres, name: &str) -> PgConnection {
    user(server, name).await.unwrap();
    PgConnection::connect(&server.url_of(name, PASSWORD)).await.unwrap()
}

/// The code of the error that this leads to; none where it is done. It is not done for good.
async fn refusal(connection: &mut PgConnection, sql: &str) -> Option<String> {
    let mut attempt = connection.begin().await.unwrap();
    let answer = (&mut *attempt).execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    attempt.rollback().await.unwrap();
    answer.err().map(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
}

/// All that a client and an application do, each at least once.
async fn everything(url: &str, key: &str) -> Result<()> {
    let backend: Arc<dyn Backend> = connect(url).await?;
    let claim = |ticket| {
        let key = LockKey::new(key).unwrap();
        Claim::new(key, Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
    };
    let (grants, mut granted) = tokio::sync::mpsc::unbounded_channel();
    let sink = EventSink::new(move |event| {
        if let Event::Granted { .. } = event {
            let _ = grants.send(());
        }
    });
    let options = SessionOptions::new(SessionId::random()?, Domain(0), LONG, HolderInfo::new(1));
    let (one, other) = (session(&backend, LONG).await?, backend.open(&options, sink).await?.session);
    one.claim(&claim(1).term(Term::Session { at_least: Duration::from_millis(1) })).await?;
    other.claim(&claim(1)).await?;
    other.claim(&claim(2)).await?;
    other.renew(&[claim(1).reference()]).await?;
    other.release(&claim(2).reference(), Certainty::MaybeInFlight).await?;
    one.release(&claim(1).reference(), Certainty::Settled).await?;
    within(PATIENCE, "the news of the grant", granted.recv()).await;
    let fixed = claim(9).term(Term::Fixed(SECOND));
    assert!(matches!(one.claim(&fixed.waiting(false)).await?, Claimed::Busy(_)));
    let state = backend.inspect(&LockKey::new(key)?).await?;
    let [holder] = &state.holders[..] else { panic!("{state:?}") };
    assert_eq!(backend.list(&Query::new(None, "", 10)).await?.keys, [LockKey::new(key)?]);
    backend.probe().await?;

    let mut own = PgConnection::connect(url.split('?').next().unwrap()).await.unwrap();
    let mut transaction = own.begin().await.unwrap();
    let fences = ["SELECT fencepost.fence($1, $2)", "SELECT fencepost.check_fence($1, 'exclusive', $2)"];
    for fence in fences {
        let token = i64::try_from(holder.token.get()).unwrap();
        sqlx::query(fence).bind(key).bind(token).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let client = LockClient::builder(backend.clone()).build()?;
    let guard = client.mutex("guarded")?.acquire().await?;
    let mut transaction = own.begin().await.unwrap();
    lock_postgres::fence(&mut transaction, &guard).await?;
    transaction.commit().await.unwrap();
    guard.release().await?;

    assert_eq!(backend.force_release(&LockKey::new(key)?, None).await?, 1);
    one.close().await?;
    other.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_has_only_the_functions_can_do_all_that_a_client_does() {
    let server = server().await;
    user(&server, "locks").await.unwrap();
    everything(&url(&server, "locks"), "a").await.unwrap();
    everything(&url(&server, OWNER), "b").await.unwrap();
}

#[tokio::test]
async fn it_can_do_nothing_with_the_tables_and_nothing_to_the_schema() {
    let server = server().await;
    let mut locks = asking(&server, "locks").await;
    for table in TABLES {
        for sql in [
            format!("SELECT FROM fencepost.{table}"),
            format!("INSERT INTO fencepost.{table} DEFAULT VALUES"),
            format!("DELETE FROM fencepost.{table}"),
            format!("TRUNCATE fencepost.{table}"),
            format!("LOCK TABLE fencepost.{table} IN ACCESS EXCLUSIVE MODE"),
            format!("ALTER TABLE fencepost.{table} SET UNLOGGED"),
            format!("DROP TABLE fencepost.{table} CASCADE"),
            format!(
                "CREATE TRIGGER t BEFORE INSERT ON fencepost.{table} EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ),
        ] {
            assert_eq!(refusal(&mut locks, &sql).await.as_deref(), Some(DENIED), "{sql}");
        }
    }
    let all = server.run("SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'fencepost'::regnamespace");
    let all = all.await.unwrap();
    assert_eq!(all.split(' ').count(), TABLES.len(), "{all}");
    for sql in [
        "UPDATE fencepost.lock SET fence = 0",
        "UPDATE fencepost.session SET expires_at = 0",
        "UPDATE fencepost.mark SET highest = 0",
        "UPDATE fencepost.highest SET fence = 0",
        "SELECT nextval('fencepost.waiter_place_seq')",
        "CREATE TABLE fencepost.mine ()",
        "CREATE FUNCTION fencepost.clock(integer) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        "CREATE OR REPLACE FUNCTION fencepost.clock() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        "ALTER FUNCTION fencepost.clock() SET search_path = public",
        "GRANT EXECUTE ON FUNCTION fencepost.clock() TO PUBLIC; SET ROLE owner",
        "DROP SCHEMA fencepost CASCADE",
        "CREATE SCHEMA mine",
    ] {
        assert_eq!(refusal(&mut locks, sql).await.as_deref(), Some(DENIED), "{sql}");
    }
}

/// They run with the rights of who calls them.
#[tokio::test]
async fn what_is_inside_does_nothing_for_it() {
    let server = server().await;
    let mut locks = asking(&server, "locks").await;
    let backend = connect(&url(&server, "locks")).await.unwrap();
    let holder = session(&backend, LONG).await.unwrap();
    let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(1), Mode::Exclusive, Permit::MUTEX);
    assert!(matches!(holder.claim(&claim).await.unwrap(), Claimed::Granted { .. }));
    // So that nobody removes what is idle meanwhile.
    drop(backend);
    let id = format!("'\\x{}'", holder.id());
    drop(holder);
    let content =
        TABLES.map(|table| format!("(SELECT array_agg(t::text ORDER BY t::text) FROM fencepost.{table} t)"));
    let content = format!("SELECT {}", content.join(", "));
    let before = server.run(&content).await.unwrap();
    for sql in [
        format!("fencepost.claim_one({id}, 2, 'j', true, 1, 1, 's', 0, 'x', '')"),
        format!("fencepost.release_one({id}, 1, 'k', true)"),
        "fencepost.make('j')".to_owned(),
        format!("fencepost.tell({id}, 'r 1')"),
        format!("fencepost.life({id})"),
        "fencepost.write(ROW('k', 0, 0, 1, 0, '{}')::fencepost.lock, 0)".to_owned(),
        "fencepost.settle(ROW('k', 0, 0, 1, 1, '{}')::fencepost.lock, 0, NULL, NULL, NULL)".to_owned(),
        "fencepost.head(ROW('k', 0, 0, 1, 1, '{}')::fencepost.lock)".to_owned(),
    ] {
        assert_eq!(refusal(&mut locks, &format!("SELECT {sql}")).await.as_deref(), Some(DENIED), "{sql}");
    }
    // All that do not run with their owner's rights, with nothing.
    let calls = "SELECT format('SELECT %s(%s)', p.oid::regproc, (SELECT string_agg('NULL::' || t::regtype, ', ') \
                 FROM unnest(p.proargtypes) t)) FROM pg_proc p \
                 WHERE p.pronamespace = 'fencepost'::regnamespace AND NOT p.prosecdef";
    for call in server.run(calls).await.unwrap().lines() {
        let _ = refusal(&mut locks, call).await;
        // For good as well.
        let _ = (&mut locks).execute(sqlx::raw_sql(AssertSqlSafe(call.to_owned()))).await;
    }
    assert_eq!(server.run(&content).await.unwrap(), before);
}

/// Traps for whoever runs with the search path of their maker: operators and functions of the names that the schema uses.
const TRAPS: &str = "
    CREATE SCHEMA evil;
    CREATE TABLE evil.ran (by text);
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    GRANT INSERT ON evil.ran TO PUBLIC;
    CREATE FUNCTION evil.spring() RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN true; END $$;
    CREATE FUNCTION evil.same(bytea, bytea) RETURNS boolean LANGUAGE sql AS
      $$ SELECT evil.spring() AND $1 OPERATOR(pg_catalog.=) $2 $$;
    CREATE FUNCTION evil.same(bigint, bigint) RETURNS boolean LANGUAGE sql AS
      $$ SELECT evil.spring() AND $1 OPERATOR(pg_catalog.=) $2 $$;
    CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS
      $$ SELECT evil.spring() AND $1 OPERATOR(pg_catalog.=) $2 $$;
    CREATE FUNCTION evil.more(bigint, bigint) RETURNS boolean LANGUAGE sql AS
      $$ SELECT evil.spring() AND $1 OPERATOR(pg_catalog.>) $2 $$;
    CREATE FUNCTION evil.sum(bigint, bigint) RETURNS bigint LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN $1 OPERATOR(pg_catalog.+) $2 END $$;
    CREATE FUNCTION evil.joined(text, text) RETURNS text LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.textcat($1, $2) END $$;
    CREATE OPERATOR evil.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.same);
    CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.same);
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
    CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.more);
    CREATE OPERATOR evil.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.sum);
    CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.joined);
    CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.clock_timestamp() END $$;
    CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.encode($1, $2) END $$;
    CREATE FUNCTION evil.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.hashtextextended($1, $2) END $$;
    CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.convert_to($1, $2) END $$;
    CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS
      $$ SELECT evil.spring(); SELECT pg_catalog.pg_notify($1, $2) $$;
    CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.set_config($1, $2, $3) END $$;
    CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.current_setting($1) END $$;
    CREATE FUNCTION evil.cardinality(anyarray) RETURNS integer LANGUAGE sql AS
      $$ SELECT CASE WHEN evil.spring() THEN pg_catalog.cardinality($1) END $$;
    CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format'";

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_puts_before_the_servers_own_functions_is_not_run_as_the_owner() {
    let server = server().await;
    user(&server, "mallory").await.unwrap();
    server.run(TRAPS).await.unwrap();
    server.run("ALTER ROLE mallory SET search_path = evil, pg_catalog, fencepost").await.unwrap();
    everything(&url(&server, "mallory"), "k").await.unwrap();
    // He has sprung some of them himself.
    assert_eq!(server.run("SELECT DISTINCT by FROM evil.ran").await.unwrap(), "mallory");
}

/// What a role says of its own session does not hold for what the owner writes.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_callers_session_hide_none_of_the_schemas() {
    let server = server().await;
    let mut locks = asking(&server, "locks").await;
    server.run("GRANT TEMPORARY ON DATABASE postgres TO locks").await.unwrap();
    for table in TABLES {
        let sql =
            format!("CREATE TEMPORARY TABLE {table} (key bytea, fence bigint, id bytea, expires_at bigint)");
        (&mut locks).execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let opened: bool = sqlx::query_scalar(r"SELECT fencepost.open('\x00', 60000000, $1, '')")
        .bind(format!("fencepost_{}", "0".repeat(32)))
        .fetch_one(&mut locks)
        .await
        .unwrap();
    assert!(opened);
    assert_eq!(server.run("SELECT count(*) FROM fencepost.session").await.unwrap(), "1");
}

#[tokio::test]
async fn whoever_lacks_a_right_is_told_which() {
    let server = server().await;
    server.account("nobody", PASSWORD).await.unwrap();
    server.account("visitor", PASSWORD).await.unwrap();
    server.run("GRANT USAGE ON SCHEMA fencepost TO visitor").await.unwrap();
    for user in ["nobody", "visitor"] {
        let others = "the schema fencepost belongs to owner";
        let rights = "it needs USAGE on the schema and EXECUTE on its functions";
        for (url, advice) in [(url(&server, user), rights), (server.url_of(user, PASSWORD), others)] {
            let error = connect(&url).await.unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{user}: {error}");
            assert!(error.message().contains(advice), "{user}: {error}");
        }
    }
    // Where there is no schema yet.
    let error = connect(&format!("{}?schema=new", server.url_of("nobody", PASSWORD))).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    assert!(error.message().contains("making the schema takes CREATE on the database"), "{error}");
}

/// Each of the functions that a client calls is one that somebody may forget to grant.
#[tokio::test(flavor = "multi_thread")]
async fn each_function_that_is_not_granted_is_said_to_be_missing() {
    let server = server().await;
    user(&server, "locks").await.unwrap();
    let functions = "SELECT oid::regprocedure FROM pg_proc \
                     WHERE pronamespace = 'fencepost'::regnamespace AND prosecdef ORDER BY proname";
    let functions = server.run(functions).await.unwrap();
    // Of these it is not said before there is something to be done; and the last two are the application's.
    let seldom =
        ["apply(", "sweep(", "lives(", "end_sessions(", "settle_keys(", "fence_key(", "check_fence("];
    for function in functions.lines().filter(|name| !seldom.iter().any(|seldom| name.contains(seldom))) {
        server.run(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM locks")).await.unwrap();
        let error = everything(&url(&server, "locks"), function).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Denied, "{function}: {error}");
        server.run(&format!("GRANT EXECUTE ON FUNCTION {function} TO locks")).await.unwrap();
        server.run("DELETE FROM fencepost.lock").await.unwrap();
    }
}
