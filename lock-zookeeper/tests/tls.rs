//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod secured;

use std::time::Duration;

use lock_conformance::servers::ZooKeeper;
use lock_conformance::tls::working::{self, Asking, Renewal, is_renewed, takes_a_lock};
use lock_conformance::tls::{TlsStore, query};
use lock_core::{ErrorKind, LockClient};

use crate::secured::InZooKeeper;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn with_the_authority_of_the_server_alone() {
    working::with_the_authority_alone(&InZooKeeper).await.unwrap();
}

#[tokio::test]
async fn with_a_certificate_a_user_and_a_password() {
    let Asking { authority, client, server } = Asking::start(&InZooKeeper).await.unwrap();
    let files = query(authority.certificate(), Some(&client));
    let url = format!("zookeepers://app:p%40ss@{}/billing?{files}", server.address());
    let backend = InZooKeeper.connect(&url).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss") && shown.contains("zookeepers://"), "{shown}");
}

#[tokio::test]
async fn a_waiter_is_woken_a_hold_renewed_and_both_survive_a_connection_that_is_reset() {
    working::through_resets(&InZooKeeper).await.unwrap();
}

/// A new authority, and certificates of it, in the files of the old ones: on the server, which is started again, and with the
/// client, which is not.
#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    let renewal = Renewal::new().unwrap();
    let server = InZooKeeper.start(Some(&renewal.tls()), false).await.unwrap();
    let client = client(&server, &renewal, 30 * SECOND);
    renewal.is_not_needed_by(&client).await.unwrap();

    server.kill().await.unwrap();
    renewal.server().unwrap();
    server.start_again().await.unwrap();
    let lock = client.mutex("k").unwrap();
    let refused = async |words: &str| {
        loop {
            let error = lock.try_acquire().await.unwrap_err();
            // A connection that has just broken says nothing about certificates yet.
            if error.message().contains(words) {
                return error;
            }
            assert!(error.is_retryable(), "{error}");
        }
    };
    refused("ca_file").await;
    // On a line that was made since, it is the file that is wrong.
    let error = refused("ca_file").await;
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");

    renewal.known().unwrap();
    refused("cert_file").await;

    renewal.client().unwrap();
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// All at once, under a hold: the line that was made with the old ones is given up without anybody being told.
#[tokio::test]
async fn a_hold_goes_on_with_renewed_certificates() {
    let renewal = Renewal::new().unwrap();
    let server = InZooKeeper.start(Some(&renewal.tls()), false).await.unwrap();
    let client = client(&server, &renewal, 6 * SECOND);
    let held = client.mutex("k").unwrap().acquire().await.unwrap();
    server.kill().await.unwrap();
    renewal.server().unwrap();
    renewal.known().unwrap();
    renewal.client().unwrap();
    server.start_again().await.unwrap();
    client.mutex("other").unwrap().acquire().await.unwrap().release().await.unwrap();
    is_renewed(&held, 7 * SECOND).await.unwrap();
    held.release().await.unwrap();
}

fn client(server: &ZooKeeper, renewal: &Renewal, ttl: Duration) -> LockClient {
    let url = format!("zookeepers://{}?{}", server.address(), renewal.query());
    LockClient::builder(InZooKeeper.open(&url).unwrap()).ttl(ttl).build().unwrap()
}
