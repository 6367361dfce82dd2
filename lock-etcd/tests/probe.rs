//! What the probe finds: on this server, and on one that says to be of a version in which what is known has been mended.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use lock_conformance::servers::Etcd;
use lock_core::{Connector, Finding, Severity, StoreUrl};
use lock_etcd::EtcdConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

async fn findings(address: &str) -> Vec<Finding> {
    let mut url = StoreUrl::parse(&format!("etcd://{address}")).unwrap();
    EtcdConnector::new().connect(&mut url).await.unwrap().probe().await.unwrap()
}

/// What the server's program is, as it says itself.
async fn version(server: &Etcd) -> String {
    let status = server.call("/v3/maintenance/status", &serde_json::json!({})).await.unwrap();
    status["version"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_version_that_loses_leases_is_unsafe() {
    let server = Etcd::start().await.unwrap();
    let version = version(&server).await;
    let through = Renamed::start(&server, &version, &like(&version, "3.4.0")).await;
    let found = findings(&through.address.to_string()).await;
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.severity, finding.setting.as_str()), (Severity::Unsafe, "server version"));
    for words in ["15247", "17780", "3.5.14"] {
        assert!(finding.message.contains(words), "{finding}");
    }
}

#[tokio::test]
async fn a_version_in_which_they_are_mended_has_no_findings() {
    let server = Etcd::start().await.unwrap();
    let version = version(&server).await;
    let through = Renamed::start(&server, &version, &like(&version, "3.6.1")).await;
    assert_eq!(findings(&through.address.to_string()).await, []);
}

/// A version of the same length: the answer's length stays what it was.
fn like(version: &str, other: &str) -> String {
    format!("{other}{}", "0".repeat(version.len().saturating_sub(other.len())))
}

/// The way to a server, on which its version is told as another one.
struct Renamed {
    address: SocketAddr,
    _ways: JoinSet<()>,
}

impl Renamed {
    async fn start(server: &Etcd, version: &str, other: &str) -> Renamed {
        assert_eq!(version.len(), other.len(), "{version} as {other}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, version, other) = (server.address(), version.to_owned(), other.to_owned());
        let mut ways = JoinSet::new();
        ways.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&server).await.unwrap();
                open.spawn(pass(client, server, version.clone(), other.clone()));
            }
        });
        Renamed { address, _ways: ways }
    }
}

async fn pass(client: TcpStream, server: TcpStream, version: String, other: String) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asked = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let answered = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = from_server.read(&mut bytes).await?;
            if read == 0 {
                return Ok(());
            }
            let mut from = 0;
            while let Some(place) =
                bytes[from..read].windows(version.len()).position(|window| window == version.as_bytes())
            {
                bytes[from + place..from + place + version.len()].copy_from_slice(other.as_bytes());
                from += place + version.len();
            }
            to_client.write_all(&bytes[..read]).await?;
        }
    };
    // A test that ends breaks both ways.
    let _: std::io::Result<((), ())> = tokio::try_join!(asked, answered);
}
