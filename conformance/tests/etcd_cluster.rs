//! An etcd cluster that the harness starts: it agrees, goes on without its leader, and is whole again after a heal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use lock_conformance::Loss;
use lock_conformance::servers::{
    Authority, ClientCertificates, Etcd, EtcdCluster, EtcdClusterSetup, EtcdSetup, Tls,
};
use lock_core::ErrorKind;
use serde_json::{Value, json};

const PASSWORD: &str = "s3cret \"with\" \\ and \u{00e9}";

#[tokio::test]
async fn what_one_member_is_told_every_member_knows() {
    let cluster = EtcdCluster::start().await.unwrap();
    let members = cluster.members();
    for (number, member) in members.iter().enumerate() {
        member.put("k", number.to_string()).await.unwrap();
        for other in &members {
            assert_eq!(other.get("k").await.unwrap(), bytes(&number.to_string()));
        }
    }
    let addresses: Vec<_> = members.iter().map(|member| member.address()).collect();
    assert_eq!(cluster.endpoints(), addresses.join(","));
    let (leader, follower) = (cluster.leader().await.unwrap(), cluster.follower().await.unwrap());
    assert!(addresses.contains(&leader.address()) && addresses.contains(&follower.address()));
    assert_ne!(leader.address(), follower.address());
}

#[tokio::test]
async fn another_member_leads_once_the_leader_is_lost_and_again() {
    let cluster = EtcdCluster::start().await.unwrap();
    for (how, value) in [(Loss::Killed, "first"), (Loss::Stopped, "second")] {
        let before = cluster.leader().await.unwrap();
        before.put("k", value).await.unwrap();
        let old = followed_by(&before).await;
        let lost = cluster.lose_leader(how).await.unwrap();
        assert!(Arc::ptr_eq(&lost, &before));
        for member in others(&cluster, &lost) {
            assert_ne!(followed_by(&member).await, old, "it does not know yet");
        }
        let next = cluster.leader().await.unwrap();
        assert!(!Arc::ptr_eq(&next, &lost));
        for member in others(&cluster, &lost) {
            assert_eq!(member.get("k").await.unwrap(), bytes(value));
        }
        next.put("k", "new").await.unwrap();
        let again = cluster.lose_leader(how).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::InvalidInput, "{again}");
        cluster.heal().await.unwrap();
        assert_eq!(lost.get_here("k").await.unwrap(), bytes("new"));
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_hears_nothing_and_is_heard_by_its_clients_alone() {
    let cluster = EtcdCluster::start().await.unwrap();
    let old = cluster.leader().await.unwrap();
    old.put("k", "old").await.unwrap();
    cluster.isolate(&old).unwrap();
    // It leads still, and tells the others: had one of them heard it, the next leader would know.
    let writing = tokio::spawn({
        let old = Arc::clone(&old);
        async move { old.put("k", "none").await }
    });
    cluster.is_led().await.unwrap();
    let next = cluster.leader().await.unwrap();
    assert!(!Arc::ptr_eq(&next, &old));
    assert!(writing.await.unwrap().is_err(), "it wrote for a majority that it does not have");
    assert_eq!(next.get("k").await.unwrap(), bytes("old"));
    next.put("k", "new").await.unwrap();
    for member in others(&cluster, &old) {
        assert_eq!(member.get("k").await.unwrap(), bytes("new"));
    }
    assert_eq!(old.get_here("k").await.unwrap(), bytes("old"));
    let status = old.call("/v3/maintenance/status", &json!({})).await.unwrap();
    assert_ne!(status["leader"], followed_by(&next).await, "it hears of its successor");
    assert!(old.get("k").await.is_err(), "it answered for a majority that it does not have");
    cluster.heal().await.unwrap();
    assert_eq!(old.get("k").await.unwrap(), bytes("new"));
    // Once more: nothing of the first time is in the way.
    let second = cluster.isolate_leader().await.unwrap();
    assert!(!Arc::ptr_eq(&cluster.leader().await.unwrap(), &second));
    cluster.heal().await.unwrap();
}

#[tokio::test]
async fn a_follower_that_is_lost_changes_no_leader() {
    let cluster = EtcdCluster::start().await.unwrap();
    let (leader, follower) = (cluster.leader().await.unwrap(), cluster.follower().await.unwrap());
    cluster.lose(&follower, Loss::Stopped).await.unwrap();
    cluster.is_led().await.unwrap();
    assert!(Arc::ptr_eq(&cluster.leader().await.unwrap(), &leader));
    leader.put("k", "v").await.unwrap();
    cluster.heal().await.unwrap();
    assert_eq!(follower.get("k").await.unwrap(), bytes("v"));
    let stranger = Etcd::start().await.unwrap();
    let error = cluster.lose(&stranger, Loss::Killed).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidInput);
    assert_eq!(stranger.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn five_members_go_on_without_two() {
    let cluster = EtcdClusterSetup::new().members(5).start().await.unwrap();
    let first = cluster.lose_leader(Loss::Killed).await.unwrap();
    let second = cluster.isolate_leader().await.unwrap();
    assert_eq!(cluster.isolate_leader().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    cluster.leader().await.unwrap().put("k", "v").await.unwrap();
    cluster.heal().await.unwrap();
    for member in [first, second] {
        assert_eq!(member.get("k").await.unwrap(), bytes("v"));
    }
}

#[tokio::test]
async fn a_cluster_starts_again_with_its_data_or_without() {
    let cluster = EtcdClusterSetup::new().each(EtcdSetup::new().password(PASSWORD)).start().await.unwrap();
    let [first, second, third] = &cluster.members()[..] else { unreachable!("three members") };
    first.put("k", "v").await.unwrap();
    cluster.kill().await.unwrap();
    assert_eq!(first.get("k").await.unwrap_err().kind(), &ErrorKind::Unavailable);
    cluster.start_again().await.unwrap();
    assert_eq!(second.get("k").await.unwrap(), bytes("v"));
    cluster.stop().await.unwrap();
    assert_eq!(second.get("k").await.unwrap_err().kind(), &ErrorKind::TimedOut);
    cluster.go_on().unwrap();
    cluster.is_led().await.unwrap();
    cluster.shut_down().await.unwrap();
    let alone = third.start_again_empty().await.unwrap_err();
    assert_eq!(alone.kind(), &ErrorKind::InvalidInput);
    cluster.start_again_empty().await.unwrap();
    assert_eq!(third.get("k").await.unwrap(), None);
    third.account("ann", "a password", "ann/").await.unwrap();
}

#[tokio::test]
async fn a_cluster_without_room_takes_no_writes_until_there_is_some() {
    let setup = EtcdSetup::new().quota(4 * 1024 * 1024);
    let cluster = EtcdClusterSetup::new().each(setup).start().await.unwrap();
    cluster.fill().await.unwrap();
    for member in cluster.members() {
        assert_eq!(member.put("k", "v").await.unwrap_err().kind(), &ErrorKind::Exhausted);
    }
    cluster.make_room().await.unwrap();
    for member in cluster.members() {
        member.put("k", "v").await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_speaks_tls_and_asks_for_passwords() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let setup = EtcdSetup::new().password(PASSWORD).tls(&tls);
    let cluster = EtcdClusterSetup::new().each(setup).start().await.unwrap();
    let lost = cluster.lose_leader(Loss::Killed).await.unwrap();
    assert!(lost.url().starts_with("https://"), "{}", lost.url());
    cluster.leader().await.unwrap().put("k", "v").await.unwrap();
    cluster.heal().await.unwrap();
    assert_eq!(lost.get("k").await.unwrap(), bytes("v"));
}

#[test]
fn a_cluster_outlives_the_runtime_in_which_it_was_started() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let cluster = runtime().block_on(EtcdCluster::start()).unwrap();
    runtime().block_on(async {
        cluster.is_led().await.unwrap();
        cluster.lose_leader(Loss::Killed).await.unwrap();
        cluster.heal().await.unwrap();
    });
}

#[tokio::test]
async fn nothing_is_left_of_a_cluster_that_is_dropped() {
    let cluster = EtcdCluster::start().await.unwrap();
    cluster.lose_leader(Loss::Stopped).await.unwrap();
    let of_each = |member: &Arc<Etcd>| (member.server().unwrap().pid(), member.directory().to_owned());
    let members: Vec<_> = cluster.members().iter().map(of_each).collect();
    let is_there = |(pid, directory): &(u32, std::path::PathBuf)| {
        (Path::new(&format!("/proc/{pid}")).exists(), directory.exists())
    };
    assert!(members.iter().all(|member| is_there(member) == (true, true)));
    drop(cluster);
    assert!(members.iter().all(|member| is_there(member) == (false, false)));
}

/// The leader's number, as a member says.
async fn followed_by(member: &Etcd) -> Value {
    let status = member.call("/v3/maintenance/status", &json!({})).await.unwrap();
    assert!(status["leader"].is_string(), "it follows nobody: {status}");
    status["leader"].clone()
}

fn others(cluster: &EtcdCluster, but: &Arc<Etcd>) -> Vec<Arc<Etcd>> {
    cluster.members().into_iter().filter(|member| !Arc::ptr_eq(member, but)).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}
