//! An etcd server that the harness starts does what it is told, lets in whom it is told, and leaves nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use lock_conformance::proxy::Way;
use lock_conformance::servers::{
    Authority, Certificate, ClientCertificates, Etcd, EtcdSetup, Island, Permission, Tls,
};
use lock_core::{Clock, ErrorKind, SystemClock};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const PASSWORD: &str = "s3cret \"with\" \\ and \u{00e9}";

#[tokio::test]
async fn a_server_answers_as_soon_as_it_is_started() {
    let etcd = Etcd::start().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), None);
    etcd.put("k", "v").await.unwrap();
    etcd.put([0xff, 0], [0, 0xfe]).await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), bytes("v"));
    assert_eq!(etcd.get([0xff, 0]).await.unwrap(), Some(vec![0, 0xfe]));
    assert_eq!((etcd.keys("").await.unwrap(), etcd.keys("k").await.unwrap()), (2, 1));
    assert_eq!(etcd.keys([0xff]).await.unwrap(), 1);
    assert!(etcd.delete("k").await.unwrap() && !etcd.delete("k").await.unwrap());
    assert_eq!(etcd.revision().await.unwrap(), 4);
    assert_eq!(etcd.url(), format!("http://127.0.0.1:{}", etcd.port()));
    let error = etcd.call("/v3/kv/put", &json!({})).await.unwrap_err();
    assert!(error.message().contains("key is not provided"), "{error}");
    served(&client(&etcd, &[], &["get", "k"]));
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_kill() {
    let etcd = Etcd::start().await.unwrap();
    etcd.put("k", "v").await.unwrap();
    let (port, before) = (etcd.port(), pid(&etcd));
    assert_eq!(etcd.start_again().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    etcd.kill().await.unwrap();
    assert!(!runs(before));
    assert_eq!(etcd.get("k").await.unwrap_err().kind(), &ErrorKind::Unavailable);
    etcd.start_again().await.unwrap();
    assert_eq!(etcd.port(), port);
    assert_eq!(etcd.get("k").await.unwrap(), bytes("v"));
    etcd.shut_down().await.unwrap();
    etcd.start_again_empty().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_is_stopped_answers_when_it_goes_on() {
    let etcd = Etcd::start().await.unwrap();
    etcd.stop().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap_err().kind(), &ErrorKind::TimedOut);
    etcd.go_on().unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_ends_when_it_is_revoked_and_by_itself() {
    let etcd = Etcd::start().await.unwrap();
    let (long, short) = (lease(&etcd, 600).await, lease(&etcd, 1).await);
    put_under(&etcd, "long", long).await;
    put_under(&etcd, "short", short).await;
    until("the lease has ended", async || etcd.leases().await.unwrap() == [long]).await;
    until("its key is gone", async || etcd.get("short").await.unwrap().is_none()).await;
    assert_eq!(etcd.get("long").await.unwrap(), bytes("v"));
    etcd.revoke(long).await.unwrap();
    assert_eq!(etcd.get("long").await.unwrap(), None);
    assert!(etcd.leases().await.unwrap().is_empty());
    assert_eq!(etcd.revoke(long).await.unwrap_err().kind(), &ErrorKind::InvalidInput);
}

#[tokio::test]
async fn the_shortest_ttl_follows_from_the_election_timeout() {
    for (timeout, ttl) in [(200, 1), (660, 1), (700, 2), (2000, 3)] {
        let setup = EtcdSetup::new().election_timeout(Duration::from_millis(timeout));
        let etcd = setup.start().await.unwrap();
        let granted = etcd.call("/v3/lease/grant", &json!({ "TTL": 1 })).await.unwrap();
        assert_eq!(granted["TTL"], ttl.to_string(), "{timeout} ms");
        assert_eq!(etcd.minimum_ttl(), Duration::from_secs(ttl), "{timeout} ms");
    }
    assert_eq!(Etcd::start().await.unwrap().minimum_ttl(), Duration::from_secs(1));
}

#[tokio::test]
async fn what_is_compacted_is_forgotten() {
    let etcd = Etcd::start().await.unwrap();
    for value in ["first", "second", "third"] {
        etcd.put("k", value).await.unwrap();
    }
    let old = json!({ "key": "aw==", "revision": "2" });
    assert_eq!(etcd.call("/v3/kv/range", &old).await.unwrap()["kvs"][0]["value"], "Zmlyc3Q=");
    etcd.compact().await.unwrap();
    let error = etcd.call("/v3/kv/range", &old).await.unwrap_err();
    assert!(error.message().contains("has been compacted"), "{error}");
    etcd.compact().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), bytes("third"));
}

#[tokio::test]
async fn a_server_without_room_takes_no_writes_until_there_is_some() {
    assert_eq!(Etcd::start().await.unwrap().fill().await.unwrap_err().kind(), &ErrorKind::InvalidInput);
    let etcd = EtcdSetup::new().quota(4 * 1024 * 1024).start().await.unwrap();
    etcd.put("k", "v").await.unwrap();
    etcd.fill().await.unwrap();
    let refused = etcd.put("k", "new").await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Exhausted);
    let refused = etcd.call("/v3/lease/grant", &json!({ "TTL": 60 })).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Exhausted);
    assert!(etcd.delete("k").await.unwrap(), "it can be emptied all the same");
    etcd.kill().await.unwrap();
    etcd.start_again().await.unwrap();
    assert_eq!(etcd.put("k", "new").await.unwrap_err().kind(), &ErrorKind::Exhausted);
    etcd.make_room().await.unwrap();
    etcd.put("k", "new").await.unwrap();
    assert_eq!(etcd.keys("").await.unwrap(), 1, "what filled it is still there");
}

#[tokio::test]
async fn a_password_is_asked_for_and_not_shown() {
    let etcd = EtcdSetup::new().password(PASSWORD).start().await.unwrap();
    etcd.put("k", "v").await.unwrap();
    served(&client(&etcd, &[("ETCDCTL_USER", &format!("root:{PASSWORD}"))], &["get", "k"]));
    refused(&client(&etcd, &[], &["get", "k"]), "user name is empty");
    let wrong = client(&etcd, &[("ETCDCTL_USER", "root:wrong")], &["get", "k"]);
    refused(&wrong, "authentication failed");
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pid(&etcd))).unwrap();
    assert!(line.contains("etcd") && !line.contains("s3cret"), "{line}");
    assert!(!format!("{etcd:?}").contains("s3cret"));
    etcd.kill().await.unwrap();
    etcd.start_again().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), bytes("v"));
    etcd.kill().await.unwrap();
    etcd.start_again_empty().await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap(), None);
    refused(&client(&etcd, &[], &["get", "k"]), "user name is empty");
}

#[tokio::test]
async fn an_account_reaches_as_far_as_its_rights() {
    let etcd = EtcdSetup::new().password(PASSWORD).start().await.unwrap();
    etcd.account("ann", "a password", "ann/").await.unwrap();
    etcd.put("bob/k", "v").await.unwrap();
    let ann = |arguments: &[&str]| client(&etcd, &[("ETCDCTL_USER", "ann:a password")], arguments);
    served(&ann(&["put", "ann/k", "v"]));
    served(&ann(&["get", "--prefix", "ann/"]));
    for beyond in [&["put", "ann0", "v"][..], &["get", "bob/k"], &["get", "--prefix", "an"]] {
        refused(&ann(beyond), "permission denied");
    }
    etcd.grant("ann", Permission::Read, "bob/").await.unwrap();
    served(&ann(&["get", "bob/k"]));
    refused(&ann(&["put", "bob/k", "v"]), "permission denied");
    served(&ann(&["put", "ann/k", "v"]));
    etcd.remove_account("ann").await.unwrap();
    refused(&ann(&["get", "ann/k"]), "authentication failed");
    etcd.account("ann", "another", "").await.unwrap();
    served(&client(&etcd, &[("ETCDCTL_USER", "ann:another")], &["get", "--prefix", ""]));
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused_where_one_is_asked_for() {
    use ClientCertificates::{Optional, Required, Unasked};
    let (authority, foreign) = (Authority::new().unwrap(), Authority::new().unwrap());
    let good = authority.client("client").unwrap();
    let bad = [authority.expired_client("client").unwrap(), foreign.client("client").unwrap()];
    for (asked, without) in [(Unasked, true), (Required, false)] {
        let tls = Tls::new(&authority, authority.server().unwrap()).client_certificates(asked);
        let etcd = EtcdSetup::new().tls(&tls).start().await.unwrap();
        assert_eq!(etcd.url(), format!("https://127.0.0.1:{}", etcd.port()));
        etcd.put("k", "v").await.unwrap();
        let is_served = |authority, certificate| tls_client(&etcd, authority, certificate).status.success();
        assert!(is_served(&authority, Some(&good)), "{asked:?}");
        assert_eq!(is_served(&authority, None), without, "{asked:?}");
        for bad in &bad {
            assert_eq!(is_served(&authority, Some(bad)), without, "{asked:?}");
        }
        assert!(!is_served(&foreign, Some(&good)), "{asked:?}");
        assert!(!client(&etcd, &[], &["get", "k"]).status.success(), "{asked:?}");
        etcd.kill().await.unwrap();
        etcd.start_again().await.unwrap();
        assert!(is_served(&authority, Some(&good)), "{asked:?}");
    }
    let tls = Tls::new(&authority, authority.server().unwrap()).client_certificates(Optional);
    let error = EtcdSetup::new().tls(&tls).start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
}

#[tokio::test]
async fn its_clients_can_be_disconnected() {
    let etcd = Etcd::start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(etcd.address()).await.unwrap());
    }
    // Whom it has not accepted yet, it cannot disconnect.
    let mut ended = 0;
    until("its clients are disconnected", async || {
        ended += etcd.disconnect().unwrap();
        clients.retain(|client| !has_ended(client));
        clients.is_empty()
    })
    .await;
    assert!(ended >= 3, "{ended}");
    served(&client(&etcd, &[], &["put", "k", "v"]));
    assert_eq!(etcd.get("k").await.unwrap(), bytes("v"));
}

#[tokio::test]
async fn a_server_on_an_island_can_be_cut_off_and_asked_all_the_same() {
    let Some(island) = island() else { return };
    let etcd = EtcdSetup::new().on(&island).start().await.unwrap();
    assert_eq!(etcd.address(), format!("{}:{}", island.address(), etcd.port()));
    served(&client(&etcd, &[], &["put", "k", "v"]));
    island.cut(Way::Both).unwrap();
    refused(
        &client(&etcd, &[], &["--dial-timeout=500ms", "--command-timeout=500ms", "get", "k"]),
        "deadline",
    );
    assert_eq!(etcd.get("k").await.unwrap(), bytes("v"));
    island.heal().unwrap();
    served(&client(&etcd, &[], &["get", "k"]));
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_is_dropped() {
    let etcd = Etcd::start().await.unwrap();
    let (pid, directory) = (pid(&etcd), etcd.directory().to_owned());
    // Stopped, it would not hear a milder signal.
    etcd.stop().await.unwrap();
    assert!(runs(pid) && directory.exists());
    drop(etcd);
    assert!(!runs(pid) && !directory.exists());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = EtcdSetup::new().election_timeout(Duration::from_secs(60)).start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("too long"), "{error}");
    let error = EtcdSetup::new().program("no-such-server").start().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Misconfigured);
    assert_eq!(error.message(), "there is no program no-such-server: apt-get install etcd-server");
}

async fn lease(etcd: &Etcd, ttl: u64) -> i64 {
    let granted = etcd.call("/v3/lease/grant", &json!({ "TTL": ttl })).await.unwrap();
    granted["ID"].as_str().unwrap().parse().unwrap()
}

async fn put_under(etcd: &Etcd, key: &str, lease: i64) {
    let key: Value = match key {
        "long" => "bG9uZw==".into(),
        "short" => "c2hvcnQ=".into(),
        other => panic!("{other} in Base64?"),
    };
    let request = json!({ "key": key, "value": "dg==", "lease": lease.to_string() });
    etcd.call("/v3/kv/put", &request).await.unwrap();
}

/// Another program's client.
fn client(etcd: &Etcd, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", etcd.address());
    command.envs(environment.iter().copied()).args(arguments).output().unwrap()
}

fn tls_client(etcd: &Etcd, authority: &Authority, certificate: Option<&Certificate>) -> Output {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let url = etcd.url();
    let mut environment = vec![("ETCDCTL_CACERT", path(authority.certificate()))];
    if let Some(certificate) = certificate {
        environment.push(("ETCDCTL_CERT", path(certificate.certificate())));
        environment.push(("ETCDCTL_KEY", path(certificate.key())));
    }
    let mut environment: Vec<_> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
    environment.push(("ETCDCTL_ENDPOINTS", &url));
    client(etcd, &environment, &["--dial-timeout=1s", "--command-timeout=1s", "get", "k"])
}

/// Whether there is nothing more to read, but for what the server says first.
fn has_ended(client: &TcpStream) -> bool {
    loop {
        match client.try_read(&mut [0; 64]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn served(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

fn refused(output: &Output, why: &str) {
    assert!(!output.status.success() && said(output).contains(why), "{why}: {}", said(output));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// `None`, and a word about it, where there can be no island.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn island() -> Option<Island> {
    match Island::new() {
        Ok(island) => Some(island),
        Err(error) if *error.kind() == ErrorKind::Unsupported => {
            eprintln!("ignored: {}", error.message());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

fn pid(etcd: &Etcd) -> u32 {
    etcd.server().unwrap().pid()
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    let end = clock.boot() + Duration::from_secs(20);
    while !so().await {
        assert!(clock.boot() < end, "not within 20 s: {what}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}
