//! How a server is reached: URLs, sockets, several hosts, the environment; passwords, and what nobody gets to see; the schema.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::sync::Arc;

use lock_conformance::servers::{Postgres, PostgresReplication, PostgresSetup, free_port};
use lock_conformance::tls::working::takes_a_lock;
use lock_core::{Backend, Clock, Connector, ErrorKind, LockClient, Result, StoreUrl, SystemClock};
use lock_postgres::sqlx::postgres::PgConnectOptions;
use lock_postgres::{PostgresConnector, PostgresOptions};
use tokio::process::Command;

use crate::fixtures::clients::{LONG, SECOND, backend, client, connect, shown, until};

const PASSWORD: &str = "hunter2";

async fn is_refused(url: &str, kind: ErrorKind, words: &str) {
    let error = connect(url).await.unwrap_err();
    assert_eq!(*error.kind(), kind, "{url}: {error}");
    assert!(error.message().contains(words), "{url}: {error}");
    assert!(!error.is_retryable(), "{url}: {error:?}");
}

#[tokio::test]
async fn whoever_is_not_known_is_refused_at_once_and_no_password_is_made_public() {
    let server = Postgres::start().await.unwrap();
    server.account("locks", PASSWORD).await.unwrap();
    for (user, password) in [("locks", "swordfish"), ("nobody", "swordfish")] {
        let url = server.url_of(user, password);
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = connect(&url).await.unwrap_err();
        assert!(clock.boot().since(begun) < SECOND);
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
        assert!(error.message().contains("check user and password"), "{error}");
        assert!(error.endpoint().unwrap().contains(&server.address()), "{error}");

        let lazy = backend(&url);
        let client = LockClient::builder(lazy.clone()).build().unwrap();
        let refused = client.mutex("k").unwrap().acquire().await.unwrap_err();
        assert_eq!((refused.kind(), refused.is_retryable()), (&ErrorKind::Denied, false), "{refused}");
        let driver: PgConnectOptions = url.parse().unwrap();
        let own = lock_postgres::backend(driver, PostgresOptions::new()).unwrap();
        let seen =
            format!("{} {} {lazy:?} {:?} {client:?} {own:?}", shown(&error), shown(&refused), lazy.info());
        assert!(!seen.contains(password), "{seen}");
    }
}

#[tokio::test]
async fn who_is_not_there_is_named() {
    let port = free_port().unwrap();
    let error = connect(&format!("postgres://app:{PASSWORD}@127.0.0.1:{}", port.number())).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true));
    let seen = shown(&error);
    assert!(seen.contains(&format!("127.0.0.1:{}", port.number())) && !seen.contains(PASSWORD), "{seen}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_said_to() {
    let server = Postgres::start().await.unwrap();
    let url = server.url().replace("/postgres", "/nowhere");
    is_refused(&url, ErrorKind::Misconfigured, "name a database that exists").await;
}

#[tokio::test]
async fn a_url_that_cannot_be_is_refused_before_anything_is_sent() {
    for (query, words) in [
        ("?tls=yes", "\"tls\" is no query key"),
        ("?pool_size=3", "there are schema, migrate, idle_after"),
        ("?migrate=perhaps", "migrate is always or never"),
        ("?target_session_attrs=standby", "a server that takes no writes"),
        ("?sslmode=perhaps", "check host, port, sslmode"),
        ("?port=many", "check host, port, sslmode"),
        ("?idle_after=soon", "idle_after"),
    ] {
        is_refused(&format!("postgres://a:{PASSWORD}@127.0.0.1:1/b{query}"), ErrorKind::Misconfigured, words)
            .await;
    }
    for schema in ["A", "a-b", "1a", "a%22b", "a%20b"] {
        let url = format!("postgresql://127.0.0.1:1/b?schema={schema}");
        is_refused(&url, ErrorKind::InvalidInput, "a schema is called by").await;
    }
}

#[tokio::test]
async fn user_and_password_are_decoded_whatever_is_in_them() {
    const USER: &str = "a@b:c/d";
    const STRANGE: &str = "p/@:%é #?&'\"\\=[]+ 1";
    let server = Postgres::start().await.unwrap();
    server.account(USER, STRANGE).await.unwrap();
    connect(&server.url()).await.unwrap();
    let grants = "GRANT USAGE ON SCHEMA fencepost TO \"a@b:c/d\"; \
                  GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fencepost TO \"a@b:c/d\"";
    server.run(grants).await.unwrap();
    let backend = connect(&server.url_of(USER, STRANGE)).await.unwrap();
    assert!(!format!("{backend:?} {:?}", backend.info()).contains("p/@"));
    takes_a_lock(backend).await.unwrap();
}

#[tokio::test]
async fn of_several_hosts_the_first_that_takes_writes_is_used() {
    let servers = PostgresReplication::start().await.unwrap();
    let (primary, standby, down) =
        (servers.primary().address(), servers.replica().address(), free_port().unwrap());
    let down = format!("127.0.0.1:{}", down.number());
    let url = |hosts: &[&str]| servers.url().replace(&servers.addresses().join(","), &hosts.join(","));
    for hosts in [[&*down, &*primary], [&*standby, &*primary], [&*primary, &*standby]] {
        let backend = connect(&url(&hosts)).await.unwrap();
        let shown = format!("{backend:?} {:?}", backend.info());
        assert!(hosts.iter().all(|host| shown.contains(host)), "{shown}");
        takes_a_lock(backend).await.unwrap();
    }
    for hosts in [vec![&*standby], vec![&*down, &*standby], vec![&*standby, &*down]] {
        let error = connect(&url(&hosts)).await.unwrap_err();
        // It may be promoted.
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{error}");
        assert!(hosts.iter().any(|host| shown(&error).contains(host)), "{error}");
    }
    let error = connect(&url(&[&standby])).await.unwrap_err();
    assert!(error.message().contains("is a standby"), "{error}");
}

#[tokio::test]
async fn by_the_servers_socket() {
    let server = Postgres::start().await.unwrap();
    let directory = server.socket_directory().to_str().unwrap();
    let (user, password, port) = (server.user_name(), server.password(), server.port());
    let encoded = directory.replace('/', "%2F");
    for url in [
        format!("postgres://{user}:{password}@/postgres?host={directory}&port={port}"),
        format!("postgres:///postgres?host={encoded}&port={port}&user={user}&password={password}"),
        format!("postgres://{user}:{password}@{encoded}:{port}/postgres"),
        format!("postgresql://{user}:{password}@localhost:{port}/postgres?host={directory}"),
    ] {
        let backend = connect(&url).await.unwrap();
        let shown = format!("{backend:?} {:?}", backend.info());
        assert!(shown.contains(directory) && !shown.contains(password), "{shown}");
        takes_a_lock(backend).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_url_says_to_the_server_arrives() {
    let server = Postgres::start().await.unwrap();
    let named = async |query: &str| {
        let backend = connect(&format!("{}?{query}", server.url())).await.unwrap();
        takes_a_lock(backend.clone()).await.unwrap();
        // On both connections.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing'";
        let count = server.run(sql).await.unwrap();
        drop(backend);
        count
    };
    assert_eq!(named("application_name=billing").await, "2");
    let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'billing'";
    for query in ["options=-c%20application_name%3Dbilling", "options[application_name]=billing"] {
        until("they are gone", async || server.run(gone).await.unwrap() == "t").await;
        assert_eq!(named(query).await, "2", "{query}");
    }
    let read_only =
        client(&format!("{}?options=-c%20default_transaction_read_only%3Don", server.url()), LONG);
    let error = read_only.mutex("k").unwrap().try_acquire().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Exhausted, "{error}");
}

/// The environment is the whole process's, so that each case has one of its own: it runs this test again, which only connects.
#[tokio::test]
async fn what_the_url_leaves_out_comes_from_the_environment_and_the_file_of_passwords() {
    const CHILD: &str = "FENCEPOST_TEST_POSTGRES_URL";
    if let Ok(url) = std::env::var(CHILD) {
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
        return;
    }
    let server = Postgres::start().await.unwrap();
    let (user, password, port) = (server.user_name(), server.password(), server.port().to_string());
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    std::fs::write(&passwords, format!("127.0.0.1:{port}:*:{user}:{password}\n")).unwrap();
    std::fs::set_permissions(&passwords, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = passwords.to_str().unwrap();
    let socket = server.socket_directory().to_str().unwrap();
    let (host, wrong) = ("127.0.0.1", "swordfish");
    let at = |rest: &str| format!("postgres://{rest}127.0.0.1:{port}/postgres");
    let all = [
        ("PGHOST", host),
        ("PGPORT", &port),
        ("PGUSER", user),
        ("PGPASSWORD", password),
        ("PGDATABASE", "postgres"),
    ];
    let by_socket = [
        ("PGHOST", socket),
        ("PGPORT", &port),
        ("PGUSER", user),
        ("PGPASSWORD", password),
        ("PGDATABASE", "postgres"),
    ];
    for (url, environment, is_let_in) in [
        ("postgres://".to_owned(), all.to_vec(), true),
        ("postgres://".to_owned(), by_socket.to_vec(), true),
        (at(&format!("{user}@")), vec![("PGPASSFILE", file)], true),
        (at(""), vec![("PGUSER", user), ("PGPASSFILE", file)], true),
        (at(&format!("{user}@")), vec![], false),
        // What the URL says counts.
        (
            at(&format!("{user}:{password}@")),
            vec![("PGPASSWORD", wrong), ("PGUSER", "nobody"), ("PGPORT", "1")],
            true,
        ),
        (at(&format!("{user}:{wrong}@")), vec![("PGPASSFILE", file)], false),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "what_the_url_leaves_out_comes_from_the_environment_and_the_file_of_passwords",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, &url)
            .env("HOME", directory.path());
        for name in [
            "PGHOST",
            "PGHOSTADDR",
            "PGPORT",
            "PGUSER",
            "PGPASSWORD",
            "PGDATABASE",
            "PGPASSFILE",
            "PGOPTIONS",
            "PGSSLMODE",
        ] {
            child.env_remove(name);
        }
        let output = child.envs(environment.iter().copied()).output().await.unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), is_let_in, "{url} {environment:?}: {said}");
        assert!(is_let_in || said.contains("Denied"), "{url} {environment:?}: {said}");
    }
}

#[tokio::test]
async fn the_schema_is_made_unless_that_is_not_to_be() {
    let server = Postgres::start().await.unwrap();
    let never = format!("{}?migrate=never", server.url());
    is_refused(
        &never,
        ErrorKind::Misconfigured,
        "the database has to have the schema fencepost in version 1",
    )
    .await;
    let error = client(&never, LONG).mutex("k").unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
    assert!(error.message().contains("without migrate=never"), "{error}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'fencepost'";
    assert_eq!(server.run(schemas).await.unwrap(), "0");
    takes_a_lock(connect(&server.url()).await.unwrap()).await.unwrap();
    takes_a_lock(connect(&never).await.unwrap()).await.unwrap();
    takes_a_lock(connect(&format!("{}?migrate=always", server.url())).await.unwrap()).await.unwrap();
}

/// As an operator does it, in one transaction.
#[tokio::test]
async fn the_statements_that_are_printed_make_it() {
    let statements = |name: &str| lock_postgres::schema(&PostgresOptions::new().schema(name)).unwrap();
    let server = PostgresSetup::new().start().await.unwrap();
    for name in ["fencepost", "other", "select", "_1"] {
        server.run(&format!("BEGIN; {} COMMIT;", statements(name))).await.unwrap();
        let url = format!("{}?migrate=never&schema={name}", server.url());
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
    }
    // A second time they fail, and nothing is changed.
    assert!(server.run(&format!("BEGIN; {} COMMIT;", statements("other"))).await.is_err());
}

#[tokio::test]
async fn each_schema_has_locks_of_its_own() {
    let server = Postgres::start().await.unwrap();
    let of = |schema: &str| client(&format!("{}?schema={schema}", server.url()), LONG);
    let (one, other, same) = (of("one"), of("other"), of("one"));
    let held = one.mutex("k").unwrap().acquire().await.unwrap();
    let too = other.mutex("k").unwrap().try_acquire().await.unwrap().unwrap();
    assert!(same.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    let schemas = "SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace \
                   WHERE nspname IN ('fencepost', 'one', 'other')";
    assert_eq!(server.run(schemas).await.unwrap(), "one other");
    let connector = PostgresConnector::with_options(PostgresOptions::new().schema("one").migrate(false));
    let fourth = connector.connect(&mut StoreUrl::parse(&server.url()).unwrap()).await.unwrap();
    assert_eq!(holders(&fourth).await.unwrap(), 1);
    held.release().await.unwrap();
    too.release().await.unwrap();
    assert_eq!(holders(&fourth).await.unwrap(), 0);
}

async fn holders(backend: &Arc<dyn Backend>) -> Result<usize> {
    Ok(backend.inspect(&lock_core::LockKey::new("k")?).await?.holders.len())
}
