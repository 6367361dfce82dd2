//! Through TLS: whoever is not whom they claim to be is refused, and the error says why.

mod secured;

use lock_conformance::servers::{Authority, ClientCertificates, Tls, ZooKeeperSetup};
use lock_conformance::tls::refused;

use crate::secured::InZooKeeper;

#[tokio::test]
async fn an_impostor_is_refused_whatever_is_wrong_with_it() {
    refused::impostors(&InZooKeeper).await.unwrap();
}

/// None of this machine's authorities has signed it.
#[tokio::test]
async fn without_a_ca_file_the_machines_own_authorities_count() {
    refused::without_ca_file(&InZooKeeper).await.unwrap();
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_its_certificate() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let server = ZooKeeperSetup::new().tls(&tls).start().await.unwrap();
    // Of the other two it says no more.
    let told = ["there has to be one", "does not accept", "does not accept"];
    refused::clients(&InZooKeeper, &server, &authority, told).await.unwrap();
}

#[tokio::test]
async fn plain_text_to_a_port_with_tls_is_an_error_at_once_that_asks_for_tls() {
    refused::plain_text(&InZooKeeper).await.unwrap();
}

#[tokio::test]
async fn tls_to_a_port_without_is_an_error_in_time() {
    refused::to_a_server_without(&InZooKeeper).await.unwrap();
}

/// A server of another kind, or a proxy, that answers with something else.
#[tokio::test]
async fn what_does_not_speak_tls_is_said_to() {
    refused::something_else(&InZooKeeper).await.unwrap();
}
