//! The files for TLS: what is wrong with one is said by its name, and nothing of what is in it; and the machine's own certificates.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, a child tells its parent"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lock_conformance::servers::{Authority, Etcd, EtcdSetup, Tls};
use lock_core::{Backend, Connector, ErrorKind, Result, StoreUrl};
use lock_etcd::etcd_client::ConnectOptions;
use lock_etcd::{EtcdConnector, EtcdOptions};
use tempfile::TempDir;
use tokio::process::Command;

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    EtcdConnector::new().connect(&mut StoreUrl::parse(url)?).await
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let (client, other) = (authority.client("locks").unwrap(), authority.client("other").unwrap());
    let (certificate, key) = (client.certificate().to_owned(), client.key().to_owned());
    let pem = |path: &Path| std::fs::read_to_string(path).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let nowhere = directory.path().join("nowhere.pem");
    let garbage = file("garbage.pem", "-----BEGIN NOTHING-----\nhunter2\n");
    let no_base64 =
        file("no-base64.pem", "-----BEGIN CERTIFICATE-----\n\u{fffd}hunter2\n-----END CERTIFICATE-----\n");
    let not_x509 = file("not-x509.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (half_certificate, half_key) =
        (file("half.crt", &half(&pem(&certificate))), file("half.key", &half(&pem(&key))));
    let twisted_key = file("twisted.key", &pem(&key).replacen('M', "A", 1));
    let joined_key = file("joined.key", &pem(&key).replacen("KEY-----\n", "KEY-----", 1));
    let encrypted = file("encrypted.key", &pem(&key).replace("PRIVATE", "ENCRYPTED PRIVATE"));
    let empty = file("empty.pem", "");
    let here = directory.path().to_owned();
    let authorities = [&nowhere, &here, &empty, &garbage, &no_base64, &not_x509, &half_certificate, &key];
    let as_authority = authorities.map(|path| (vec![("ca_file", path)], path));
    let as_certificate = [&nowhere, &here, &empty, &garbage, &no_base64, &not_x509, &half_certificate, &key]
        .map(|path| (vec![("cert_file", path), ("key_file", &key)], path));
    let another = other.key().to_owned();
    let keys = [
        &nowhere,
        &here,
        &empty,
        &garbage,
        &half_key,
        &twisted_key,
        &joined_key,
        &encrypted,
        &certificate,
        &another,
    ];
    let as_key = keys.map(|path| (vec![("cert_file", &certificate), ("key_file", path)], path));
    for (files, wrong) in as_authority.into_iter().chain(as_certificate).chain(as_key) {
        let error = connect(&url("etcds://127.0.0.1:1", &files)).await.unwrap_err();
        let shown = format!("{error} | {error:?}");
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
        assert!(error.message().contains(&*wrong.to_string_lossy()), "{}: {error}", wrong.display());
        let secret = [pem(&key), pem(other.key()), "hunter2".to_owned()].join("\n");
        let secret = secret.lines().filter(|line| !line.starts_with('-') && !line.is_empty());
        for line in secret {
            let line = &line[..line.len().min(10)];
            // As text, and as the numbers of its bytes.
            let numbers = format!("{:?}", line.as_bytes());
            assert!(!shown.contains(line), "{line} in {shown}");
            assert!(!shown.contains(numbers.trim_matches(['[', ']'])), "{numbers} in {shown}");
        }
    }
}

/// The end of it is missing.
fn half(pem: &str) -> String {
    pem[..pem.len() / 2].to_owned()
}

fn url(server: &str, files: &[(&str, &PathBuf)]) -> String {
    let files: Vec<_> = files.iter().map(|(key, path)| format!("{key}={}", path.display())).collect();
    format!("{server}?{}", files.join("&"))
}

#[tokio::test]
async fn files_that_belong_together_or_to_tls_are_refused_alone_and_without_it() {
    for (url, words) in [
        ("etcds://127.0.0.1:1?cert_file=/c", "belong together"),
        ("etcds://127.0.0.1:1?key_file=/k", "belong together"),
        ("etcd://127.0.0.1:1?ca_file=/a", "begin with etcds"),
        ("etcd://127.0.0.1:1?cert_file=/c&key_file=/k", "begin with etcds"),
        ("etcds://127.0.0.1:1#insecure", "#"),
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{url}: {error}");
        assert!(error.message().contains(words), "{url}: {error}");
    }
    let endpoint = ["http://127.0.0.1:1"];
    let options = EtcdOptions::new().ca_file("/a");
    let error = lock_etcd::backend(endpoint, ConnectOptions::new(), options).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
}

/// Where a child of this test is to connect to.
const CHILD: &str = "FENCEPOST_TEST_TLS_URL";

/// The environment is the whole process's, so that each case has one of its own: it runs this test again.
#[tokio::test]
async fn the_machines_own_certificates_are_read_unless_a_ca_file_is_given() {
    if let Ok(url) = std::env::var(CHILD) {
        match connect(&url).await {
            Ok(_) => println!("connected"),
            Err(error) => println!("{:?}: {}", error.kind(), error.message()),
        }
        return;
    }
    let authority = Authority::new().unwrap();
    let server =
        EtcdSetup::new().tls(&Tls::new(&authority, authority.server().unwrap())).start().await.unwrap();
    let (ca_file, directory) = (authority.certificate(), tempfile::tempdir().unwrap());
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (nowhere, damaged) = (directory.path().join("nowhere"), directory.path().join("damaged"));
    std::fs::write(&damaged, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let unreadable = "Misconfigured: .*SSL_CERT_FILE";
    for (variable, value, with_ca_file, expected) in [
        // As in a container that has none.
        ("SSL_CERT_DIR", &*empty, true, "connected"),
        ("SSL_CERT_DIR", &*empty, false, unreadable),
        // Authorities of the machine's own.
        ("SSL_CERT_FILE", ca_file, false, "connected"),
        ("SSL_CERT_FILE", &*nowhere, false, unreadable),
        ("SSL_CERT_FILE", &*damaged, false, unreadable),
        ("SSL_CERT_FILE", &*nowhere, true, "connected"),
    ] {
        let ca_file = with_ca_file.then_some(ca_file);
        let said = child(&server, variable, value, ca_file, &directory).await;
        let mut rest = &*said;
        for words in expected.split(".*") {
            let at = rest.find(words);
            assert!(at.is_some(), "{variable}={} with {ca_file:?}: {said}", value.display());
            rest = &rest[at.unwrap_or_default()..];
        }
    }
}

/// What a child says that connects with this environment.
async fn child(
    server: &Etcd,
    variable: &str,
    value: &Path,
    ca_file: Option<&Path>,
    home: &TempDir,
) -> String {
    let ca_file = ca_file.map(|path| format!("?ca_file={}", path.display())).unwrap_or_default();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["the_machines_own_certificates_are_read_unless_a_ca_file_is_given", "--exact", "--nocapture"])
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .env(variable, value)
        .env(CHILD, format!("etcds://{}{ca_file}", server.address()))
        .current_dir(home.path())
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
