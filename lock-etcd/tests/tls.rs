//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

mod secured;

use std::path::Path;

use lock_conformance::servers::{Authority, ClientCertificates, EtcdSetup, Tls, free_port};
use lock_conformance::tls::working::{self, Asking, takes_a_lock};
use lock_conformance::tls::{TlsStore, query, renewed};
use lock_core::ErrorKind;
use lock_etcd::EtcdOptions;
use lock_etcd::etcd_client::{Certificate as Pem, ConnectOptions, Identity, TlsOptions};

use crate::secured::InEtcd;

#[tokio::test]
async fn with_the_authority_of_the_server_alone() {
    working::with_the_authority_alone(&InEtcd).await.unwrap();
}

#[tokio::test]
async fn with_a_certificate_a_user_and_a_password() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let server = EtcdSetup::new().password("root's").tls(&tls).start().await.unwrap();
    server.account("app", "p@ss", "billing/").await.unwrap();
    let files = query(authority.certificate(), Some(&authority.client("locks").unwrap()));
    let url = format!("etcds://app:p%40ss@{}/billing?{files}", server.address());
    let backend = InEtcd.connect(&url).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss") && shown.contains("etcds://"), "{shown}");
}

#[tokio::test]
async fn by_an_address_of_ip_version_6() {
    let (authority, here) = (Authority::new().unwrap(), free_port().unwrap());
    let server = EtcdSetup::new()
        .tls(&Tls::new(&authority, authority.server().unwrap()))
        // The last one counts.
        .arguments([format!("--listen-client-urls=https://[::1]:{},unix://etcd.sock:0", here.number())])
        .start()
        .await
        .unwrap();
    let url = format!("etcds://[::1]:{}?{}", here.number(), query(authority.certificate(), None));
    takes_a_lock(InEtcd.connect(&url).await.unwrap()).await.unwrap();
    drop(server);
}

#[tokio::test]
async fn a_waiter_is_woken_a_hold_renewed_and_both_survive_a_connection_that_is_reset() {
    working::through_resets(&InEtcd).await.unwrap();
}

#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    renewed::file_by_file(&InEtcd).await.unwrap();
}

#[tokio::test]
async fn a_hold_goes_on_with_renewed_certificates() {
    renewed::under_a_hold(&InEtcd).await.unwrap();
}

/// What the application has given to the driver counts, as long as the options name no files.
#[tokio::test]
async fn the_certificates_of_an_applications_own_options_are_kept() {
    let Asking { authority, client, server } = Asking::start(&InEtcd).await.unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Pem::from_pem(read(authority.certificate())))
        .identity(Identity::from_pem(read(client.certificate()), read(client.key())));
    let driver = ConnectOptions::new().with_tls(tls);
    let backend = |options| lock_etcd::backend([server.url()], driver.clone(), options).unwrap();
    takes_a_lock(backend(EtcdOptions::new())).await.unwrap();

    let stranger = Authority::new().unwrap();
    let error = takes_a_lock(backend(EtcdOptions::new().ca_file(stranger.certificate()))).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
}
