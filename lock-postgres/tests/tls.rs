//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

mod secured;

use std::time::Duration;

use lock_conformance::tls::renewed::Renewal;
use lock_conformance::tls::working::{self, Asking, takes_a_lock};
use lock_conformance::tls::{TlsStore, query};
use lock_core::{ErrorKind, LockClient};

use crate::secured::InPostgres;

#[tokio::test]
async fn with_the_authority_of_the_server_alone() {
    working::with_the_authority_alone(&InPostgres).await.unwrap();
}

#[tokio::test]
async fn with_a_certificate_a_user_a_password_and_a_name() {
    let Asking { authority, client, server } = Asking::start(&InPostgres).await.unwrap();
    takes_a_lock(
        InPostgres
            .open(&format!(
                "postgress://{}?{}",
                server.address(),
                query(authority.certificate(), Some(&client))
            ))
            .unwrap(),
    )
    .await
    .unwrap();
    server.run("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'p@ss'").await.unwrap();
    let files = query(authority.certificate(), Some(&client));
    let url = format!("postgress://app:p%40ss@{}?application_name=billing&{files}", server.address());
    let backend = InPostgres.connect(&url).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    // Both connections.
    let seen = "SELECT count(*), bool_and(ssl), min(client_dn) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE application_name = 'billing' AND usename = 'app'";
    assert_eq!(server.run(seen).await.unwrap(), "2|t|/CN=locks");
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss"), "{shown}");
}

/// The name of the server does not count in one mode, and nothing of its certificate in another.
#[tokio::test]
async fn each_mode_checks_what_it_says() {
    use lock_conformance::servers::{Authority, Tls};
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let elsewhere = Tls::new(&authority, authority.server_named(["elsewhere.test"]).unwrap());
    let server = InPostgres.start(Some(&elsewhere), true).await.unwrap();
    for (mode, known, is_let_in) in [
        ("verify-full", &authority, false),
        ("verify-ca", &authority, true),
        ("verify-ca", &stranger, false),
        ("require", &stranger, true),
        ("prefer", &stranger, true),
        // The server lets nobody in without.
        ("disable", &authority, false),
    ] {
        let url = format!(
            "postgres://{}@{}/postgres?sslmode={mode}&sslrootcert={}",
            InPostgres.login(),
            server.address(),
            known.certificate().display()
        );
        let mut url = lock_core::StoreUrl::parse(&url).unwrap();
        let backend = lock_postgres::PostgresConnector::new().open(&mut url).unwrap();
        let answer = takes_a_lock(backend).await;
        assert_eq!(answer.is_ok(), is_let_in, "{mode}: {answer:?}");
        if let Err(error) = answer {
            assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{mode}: {error}");
        }
    }
}

#[tokio::test]
async fn a_waiter_is_woken_a_hold_renewed_and_both_survive_a_connection_that_is_reset() {
    working::through_resets(&InPostgres).await.unwrap();
}

/// A new authority, and certificates of it, in the files of the old ones: on the server, which is started again, and with the
/// client, which is not.
#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    let renewal = Renewal::new().unwrap();
    let server = InPostgres.start(Some(&renewal.tls()), false).await.unwrap();
    let url = format!("postgress://{}?{}", server.address(), renewal.query());
    let ttl = Duration::from_secs(30);
    let client = LockClient::builder(InPostgres.open(&url).unwrap()).ttl(ttl).build().unwrap();
    renewal.is_not_needed_by(&client).await.unwrap();

    server.kill().await.unwrap();
    renewal.server().unwrap();
    server.start_again().await.unwrap();
    let lock = client.mutex("k").unwrap();
    let error = lock.acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    assert!(error.message().contains("sslrootcert"), "{error}");

    renewal.known().unwrap();
    let error = lock.acquire().await.unwrap_err();
    assert!(error.message().contains("sslcert"), "{error}");

    renewal.client().unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
}
