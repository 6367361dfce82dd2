//! ZooKeeper servers, and ensembles of them.

#![cfg(target_os = "linux")]

use std::sync::Arc;

use lock_conformance::Loss;
use lock_conformance::servers::{ZooKeeper, ZooKeeperEnsemble};

#[tokio::test]
async fn a_server_keeps_what_it_wrote_and_can_be_stopped() {
    let server = ZooKeeper::start().await.unwrap();
    assert_eq!(server.mode().await.unwrap(), "standalone");
    let zxid = server.asked("srvr").await.unwrap();
    assert!(zxid.contains("Zxid: 0x0"), "{zxid}");
    server.kill().await.unwrap();
    assert!(server.mode().await.is_err());
    server.start_again().await.unwrap();
    server.stop().await.unwrap();
    server.go_on().unwrap();
    assert_eq!(server.mode().await.unwrap(), "standalone");
    assert_eq!(server.disconnect().unwrap(), 0);
    server.kill().await.unwrap();
    server.start_again_empty().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_leads_when_the_leader_is_lost_or_cut_off() {
    let ensemble = ZooKeeperEnsemble::start().await.unwrap();
    for how in [Loss::Killed, Loss::Stopped] {
        let old = ensemble.lose_leader(how).await.unwrap();
        assert!(!Arc::ptr_eq(&old, &ensemble.leader().await.unwrap()), "{how:?}");
        assert!(ensemble.lose_leader(how).await.is_err(), "two of three are no majority to lose one of");
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
