//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

mod secured;

use lock_conformance::tls::working::{self, Asking, takes_a_lock};
use lock_conformance::tls::{TlsStore, query, renewed};

use crate::secured::InZooKeeper;

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

#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    renewed::file_by_file(&InZooKeeper).await.unwrap();
}

#[tokio::test]
async fn a_hold_goes_on_with_renewed_certificates() {
    renewed::under_a_hold(&InZooKeeper).await.unwrap();
}
