//! The files for TLS: what is wrong with one is said by its name, and nothing of what is in it; and the machine's own certificates.

mod secured;

use lock_conformance::tls::files::{self, Own};
use lock_core::ErrorKind;
use lock_zookeeper::ZooKeeperOptions;

use crate::secured::InZooKeeper;

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_repeated() {
    files::bad_files(&InZooKeeper).await.unwrap();
}

#[tokio::test]
async fn files_that_belong_together_or_to_tls_are_refused_alone_and_without_it() {
    files::misplaced_files(&InZooKeeper).await.unwrap();
    let options = ZooKeeperOptions::new().ca_file("/a");
    let error = lock_zookeeper::backend(["127.0.0.1:1"], options).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
}

#[tokio::test]
async fn the_machines_own_certificates_are_read_unless_a_ca_file_is_given() {
    let test = "the_machines_own_certificates_are_read_unless_a_ca_file_is_given";
    let unreadable = "Misconfigured: .*SSL_CERT_FILE";
    let cases = [
        ("SSL_CERT_DIR", Own::Empty, true, "connected"),
        ("SSL_CERT_DIR", Own::Empty, false, unreadable),
        ("SSL_CERT_FILE", Own::Authority, false, "connected"),
        ("SSL_CERT_FILE", Own::Nowhere, false, unreadable),
        ("SSL_CERT_FILE", Own::Damaged, false, unreadable),
        ("SSL_CERT_FILE", Own::Nowhere, true, "connected"),
    ];
    files::machines_own(&InZooKeeper, test, &cases).await.unwrap();
}
