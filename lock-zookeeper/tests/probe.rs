//! What the probe finds in real servers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::servers::{ZooKeeper, ZooKeeperSetup};
use lock_core::{Connector, Finding, Secret, Severity, StoreUrl};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

async fn findings(addresses: &str, tick: Duration) -> Vec<Finding> {
    let options = ZooKeeperOptions::new().tick(tick).digest("locks", Secret::from("hunter2"));
    let mut url = StoreUrl::parse(&format!("zookeeper://{addresses}")).unwrap();
    ZooKeeperConnector::with_options(options).connect(&mut url).await.unwrap().probe().await.unwrap()
}

fn of<'a>(found: &'a [Finding], setting: &str) -> Vec<&'a Finding> {
    found.iter().filter(|finding| finding.setting == setting).collect()
}

#[tokio::test]
async fn a_version_that_loses_what_it_has_acknowledged_is_unsafe() {
    let server = ZooKeeper::start().await.unwrap();
    let said = server.asked("srvr").await.unwrap();
    let found = findings(&server.address(), server.tick()).await;
    let version = of(&found, "server version");
    if said.contains("version: 3.8.0") {
        let [finding] = version[..] else { panic!("{found:?}") };
        assert_eq!(finding.severity, Severity::Unsafe, "{finding}");
        assert!(finding.message.contains("4785") && finding.message.contains("3.8.0"), "{finding}");
    }
    assert_eq!(found.len(), version.len(), "{found:?}");
}

#[tokio::test]
async fn a_tick_that_is_less_than_the_servers_is_found() {
    let server = ZooKeeper::start().await.unwrap();
    let found = findings(&server.address(), server.tick() / 2).await;
    let [finding] = of(&found, "tickTime")[..] else { panic!("{found:?}") };
    assert_eq!(finding.severity, Severity::Unknown, "{finding}");
    assert!(finding.message.contains("500ms"), "{finding}");
}

#[tokio::test]
async fn servers_that_grant_different_sessions_are_unsafe() {
    let (one, other) = (ZooKeeper::start().await.unwrap(), ZooKeeper::start().await.unwrap());
    let both = format!("{},{}", one.address(), other.address());
    assert!(of(&findings(&both, one.tick()).await, "session timeouts").is_empty());
    let other = ZooKeeperSetup::new().setting("maxSessionTimeout", "9000").start().await.unwrap();
    let both = format!("{},{}", one.address(), other.address());
    let found = findings(&both, one.tick()).await;
    let [finding] = of(&found, "session timeouts")[..] else { panic!("{found:?}") };
    assert_eq!(finding.severity, Severity::Unsafe, "{finding}");
    assert!(finding.message.contains("9s"), "{finding}");
}
