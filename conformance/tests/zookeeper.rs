//! ZooKeeper servers that the harness starts, and ensembles of them.

#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, Tls, ZooKeeper, ZooKeeperEnsemble, ZooKeeperSetup,
};
use lock_core::{ErrorKind, SystemClock, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_server_keeps_what_it_wrote_and_can_be_stopped() {
    let server = ZooKeeper::start().await.unwrap();
    assert_eq!(server.mode().await.unwrap(), "standalone");
    server.kill().await.unwrap();
    assert!(server.mode().await.is_err());
    server.start_again().await.unwrap();
    server.stop().await.unwrap();
    server.go_on().unwrap();
    assert_eq!(server.mode().await.unwrap(), "standalone");
    let mut client = TcpStream::connect(server.address()).await.unwrap();
    let ended = async {
        loop {
            // Whom it has not accepted yet, it cannot disconnect.
            server.disconnect().unwrap();
            if let Some(end) = within(&SystemClock::new(), LOOK, client.read(&mut [0])).await {
                return end.unwrap_or(0);
            }
        }
    };
    assert_eq!(within(&SystemClock::new(), 1000 * LOOK, ended).await, Some(0));
    server.kill().await.unwrap();
    server.start_again_empty().await.unwrap();
    assert_eq!(server.number("zk_ephemerals_count").await.unwrap(), 0);
}

#[tokio::test]
async fn only_a_session_that_there_is_can_be_ended() {
    let server = ZooKeeper::start().await.unwrap();
    let session = server.begin_session().await.unwrap();
    assert_eq!(server.end_session(session + 1).await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    server.end_session(session).await.unwrap();
    assert_eq!(server.end_session(session).await.unwrap_err().kind(), &ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_server_with_a_limit_has_no_room_in_the_end() {
    let server = ZooKeeperSetup::new().setting("maxClientCnxns", "5").start().await.unwrap();
    let crowd = server.fill_its_room().await.unwrap();
    assert!(crowd.len() >= 5, "{crowd:?}");
    assert!(server.mode().await.is_err());
}

#[tokio::test]
async fn a_server_speaks_tls() {
    let authority = Authority::new().unwrap();
    for clients in [ClientCertificates::Unasked, ClientCertificates::Optional, ClientCertificates::Required] {
        let tls = Tls::new(&authority, authority.server().unwrap()).client_certificates(clients);
        let server = ZooKeeperSetup::new().tls(&tls).start().await.unwrap();
        assert_eq!(server.mode().await.unwrap(), "standalone", "{clients:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_leads_when_the_leader_is_lost_or_cut_off() {
    let ensemble = ZooKeeperEnsemble::start().await.unwrap();
    for how in [Loss::Killed, Loss::Stopped] {
        let old = ensemble.lose_leader(how).await.unwrap();
        assert!(!Arc::ptr_eq(&old, &ensemble.leader().await.unwrap()), "{how:?}");
        let again = ensemble.lose_leader(how).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::InvalidInput, "{again}");
        ensemble.heal().await.unwrap();
    }
    let old = ensemble.isolate_leader().await.unwrap();
    assert!(!Arc::ptr_eq(&old, &ensemble.leader().await.unwrap()));
    ensemble.heal().await.unwrap();
    ensemble.kill().await.unwrap();
    ensemble.start_again().await.unwrap();
    ensemble.kill().await.unwrap();
    ensemble.start_again_empty().await.unwrap();
}
