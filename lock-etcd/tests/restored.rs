//! A server that goes back to a copy of its data: what becomes of holds and tokens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_conformance::servers::Etcd;
use lock_core::{Connector, End, Guard, LockClient, LockKey, Reason, StoreUrl};
use lock_etcd::EtcdConnector;

const TTL: Duration = Duration::from_secs(5);

async fn client(server: &Etcd) -> LockClient {
    let backend = EtcdConnector::new().connect(&mut StoreUrl::parse(&server.url()).unwrap()).await.unwrap();
    LockClient::builder(backend).ttl(TTL).build().unwrap()
}

async fn granted(client: &LockClient, key: &str) -> Guard {
    client.mutex(LockKey::new(key).unwrap()).unwrap().acquire().await.unwrap()
}

fn data(server: &Etcd) -> PathBuf {
    server.directory().join("data")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// As the page says: tokens that were granted since the copy was made come again, and who had them is told that the hold is lost.
#[tokio::test]
async fn tokens_that_were_granted_since_come_again() {
    let server = Etcd::start().await.unwrap();
    let (first, copied) = (client(&server).await, tempfile::tempdir().unwrap());
    granted(&first, "before").await.release().await.unwrap();
    server.shut_down().await.unwrap();
    copy(&data(&server), copied.path());
    server.start_again().await.unwrap();

    let later = client(&server).await;
    let held = granted(&later, "k").await;
    server.kill().await.unwrap();
    std::fs::remove_dir_all(data(&server)).unwrap();
    copy(copied.path(), &data(&server));
    server.start_again().await.unwrap();

    let end = held.ending().await;
    assert!(matches!(end, End::Lost(Reason::SessionEnded | Reason::Expired)), "{end:?}");
    let again = granted(&client(&server).await, "k").await;
    assert!(again.token() <= held.token(), "{} after {}", again.token(), held.token());
}
