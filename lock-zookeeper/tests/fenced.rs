//! Writes to ZooKeeper that commit only while a lock stands.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use lock_conformance::servers::ZooKeeper;
use lock_core::{Connector, ErrorKind, Guard, LockClient, MemoryBackend, StoreUrl};
use lock_zookeeper::zookeeper_client::{Acls, CheckWriteError, Client, CreateMode};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions, stands};

const ACCOUNT: &str = "/account";

async fn client(server: &ZooKeeper) -> LockClient {
    let options = ZooKeeperOptions::new().tick(server.tick());
    let mut url = StoreUrl::parse(&format!("zookeeper://{}", server.address())).unwrap();
    let backend = ZooKeeperConnector::with_options(options).connect(&mut url).await.unwrap();
    LockClient::builder(backend).ttl(Duration::from_secs(5)).build().unwrap()
}

async fn data(server: &ZooKeeper) -> Client {
    let data = Client::connect(&server.address()).await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    data.create(ACCOUNT, b"0", &options).await.unwrap();
    data
}

/// Whether it was committed.
async fn writes(data: &Client, guard: &Guard, value: &str) -> bool {
    let mut write = data.new_check_writer(stands(guard).unwrap(), None).unwrap();
    write.add_set_data(ACCOUNT, value.as_bytes(), None).unwrap();
    match write.commit().await {
        Ok(_) => true,
        Err(CheckWriteError::CheckFailed { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn only_while_the_claim_stands() {
    let server = ZooKeeper::start().await.unwrap();
    let (client, other, data) = (client(&server).await, client(&server).await, data(&server).await);
    let lock = client.mutex("k").unwrap();
    let first = lock.acquire().await.unwrap();
    assert!(writes(&data, &first, "1").await);
    client.force_release("k", None).await.unwrap();
    // Whoever comes next: a former holder writes neither before it nor after.
    assert!(!writes(&data, &first, "2").await);
    let second = other.mutex("k").unwrap().acquire().await.unwrap();
    assert!(!writes(&data, &first, "2").await && writes(&data, &second, "3").await);
    assert_eq!(data.get_data(ACCOUNT).await.unwrap().0, b"3");
    drop(first);
    second.release().await.unwrap();
    let third = lock.acquire().await.unwrap();
    assert!(writes(&data, &third, "4").await);
}

/// All that hold together write, and each of them only as long as it holds itself.
#[tokio::test]
async fn readers_and_permits_stand_beside_each_other() {
    let server = ZooKeeper::start().await.unwrap();
    let (client, data) = (client(&server).await, data(&server).await);
    let permits = client.semaphore("s", 2).unwrap();
    let permit = permits.permits(1).unwrap();
    let (one, two) = (permit.acquire().await.unwrap(), permit.acquire().await.unwrap());
    assert!(writes(&data, &two, "2").await && writes(&data, &one, "1").await);
    client.force_release("s", Some(one.token())).await.unwrap();
    assert!(!writes(&data, &one, "1").await && writes(&data, &two, "2").await);
}

#[tokio::test]
async fn a_guard_of_another_store_has_no_node() {
    let elsewhere = LockClient::builder(MemoryBackend::new()).build().unwrap();
    let guard = elsewhere.mutex("k").unwrap().acquire().await.unwrap();
    assert_eq!(stands(&guard).unwrap_err().kind(), &ErrorKind::WrongBackend);
}
