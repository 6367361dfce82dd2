//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

mod common;
mod secured;

use std::path::Path;

use lock_conformance::servers::Authority;
use lock_conformance::tls::TlsStore;
use lock_conformance::tls::renewed::Renewal;
use lock_conformance::tls::working::{self, Asking, takes_a_lock};
use lock_core::{ErrorKind, LockClient};
use lock_redis::RedisOptions;
use lock_redis::redis::{self, ClientTlsConfig, TlsCertificates};

use crate::common::{SECOND, text};
use crate::secured::InRedis;

#[tokio::test]
async fn with_the_authority_of_the_server_alone() {
    working::with_the_authority_alone(&InRedis).await.unwrap();
}

#[tokio::test]
async fn with_a_certificate_a_user_a_password_a_database_and_a_name() {
    let Asking { authority, client, server } = Asking::start(&InRedis).await.unwrap();
    text(&server, &["ACL", "SETUSER", "app", "on", ">p@ss", "~*", "&*", "+@all"]).await;
    let files = lock_conformance::tls::query(authority.certificate(), Some(&client));
    let url = format!("rediss://app:p%40ss@{}/3?client_name=billing&{files}", server.address());
    let backend = InRedis.connect(&url).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    let clients = text(&server, &["CLIENT", "LIST"]).await;
    let client = clients.lines().find(|line| line.contains(" name=billing ")).unwrap();
    assert!(client.contains(" user=app ") && client.contains(" db=3 "), "{client}");
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss") && shown.contains("rediss://"), "{shown}");
}

#[tokio::test]
async fn a_waiter_is_woken_a_hold_renewed_and_both_survive_a_connection_that_is_reset() {
    working::through_resets(&InRedis).await.unwrap();
}

/// A new authority, and certificates of it, in the files of the old ones: on the server, which is started again, and with the
/// client, which is not.
#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    let renewal = Renewal::new().unwrap();
    let server = InRedis.start(Some(&renewal.tls()), false).await.unwrap();
    let url = format!("rediss://{}?{}", server.address(), renewal.query());
    let client = LockClient::builder(InRedis.open(&url).unwrap()).ttl(30 * SECOND).build().unwrap();
    renewal.is_not_needed_by(&client).await.unwrap();

    server.kill().await.unwrap();
    renewal.server().unwrap();
    server.start_again().await.unwrap();
    let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");

    renewal.known().unwrap();
    let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
    assert!(error.message().contains("cert_file"), "{error}");

    renewal.client().unwrap();
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// What the application has given to its client of the driver counts, as long as the options name no files.
#[tokio::test]
async fn the_certificates_of_an_applications_own_client_are_kept() {
    let Asking { authority, client, server } = Asking::start(&InRedis).await.unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let certificates = TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: read(client.certificate()),
            client_key: read(client.key()),
        }),
        root_cert: Some(read(authority.certificate())),
    };
    let driver = redis::Client::build_with_tls(server.url(), certificates).unwrap();
    takes_a_lock(lock_redis::backend(&driver, RedisOptions::new()).unwrap()).await.unwrap();

    let stranger = Authority::new().unwrap();
    let options = RedisOptions::new().ca_file(stranger.certificate());
    let error = takes_a_lock(lock_redis::backend(&driver, options).unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
}
