//! Through TLS: whoever is not whom they claim to be is refused, and the error says why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{Authority, Certificate, ClientCertificates, Etcd, EtcdSetup, Tls};
use lock_core::{
    Backend, Clock, Connector, Effect, Error, ErrorKind, LockClient, Result, StoreUrl, SystemClock,
};
use lock_etcd::{EtcdConnector, EtcdOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    let options = EtcdOptions::new().connect_timeout(CONNECT_TIMEOUT);
    EtcdConnector::with_options(options).connect(&mut StoreUrl::parse(url)?).await
}

/// A URL of this server, with the query keys that have a value.
fn url(server: &Etcd, files: &[(&str, &Path)]) -> String {
    let files: Vec<_> = files.iter().map(|(key, path)| format!("{key}={}", path.display())).collect();
    format!("etcds://root:hunter2@{}?{}", server.address(), files.join("&"))
}

async fn server(tls: &Tls) -> Etcd {
    EtcdSetup::new().password("hunter2").tls(tls).start().await.unwrap()
}

fn is_denied(error: &Error, server: &Etcd, words: &str) {
    assert_eq!(
        (error.kind(), error.is_retryable(), error.took_effect()),
        (&ErrorKind::Denied, false, Effect::NotApplied),
        "{error}"
    );
    assert!(error.message().contains(words), "{error}");
    assert!(error.endpoint().unwrap().contains(&server.address()), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn an_impostor_is_refused_whatever_is_wrong_with_it() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    for (certificate, check, advice) in [
        (authority.expired_server(), "certificate expired", "renew it there"),
        (
            authority.server_named(["elsewhere.test"]),
            "not valid for name \"127.0.0.1\"",
            "connect to one of its names",
        ),
        (stranger.server(), "BadSignature", "ca_file"),
        // A client's, which is none for a server.
        (authority.client("127.0.0.1"), "server authentication", "not accepted"),
    ] {
        let server = server(&Tls::new(&authority, certificate.unwrap())).await;
        let url = url(&server, &[("ca_file", authority.certificate())]);
        let error = connect(&url).await.unwrap_err();
        is_denied(&error, &server, check);
        is_denied(&error, &server, advice);

        // Nobody tries it again before the patience is over.
        let backend = EtcdConnector::new().open(&mut StoreUrl::parse(&url).unwrap()).unwrap();
        let client = LockClient::builder(backend).build().unwrap();
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
        is_denied(&error, &server, check);
        assert!(clock.boot().since(begun) < CONNECT_TIMEOUT);
    }
}

/// None of this machine's authorities has signed it.
#[tokio::test]
async fn without_a_ca_file_the_machines_own_authorities_count() {
    let authority = Authority::new().unwrap();
    let server = server(&Tls::new(&authority, authority.server().unwrap())).await;
    let error = connect(&url(&server, &[])).await.unwrap_err();
    is_denied(&error, &server, "UnknownIssuer");
    is_denied(&error, &server, "ca_file");
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_its_certificate() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let server = server(&tls).await;
    for (client, words) in [
        (None, "there has to be one"),
        (Some(authority.expired_client("locks")), "that has not expired"),
        (Some(stranger.client("locks")), "that the server knows"),
    ] {
        let client: Option<Certificate> = client.map(|client| client.unwrap());
        let mut files = vec![("ca_file", authority.certificate())];
        if let Some(client) = &client {
            files.extend([("cert_file", client.certificate()), ("key_file", client.key())]);
        }
        // The server refuses it behind the handshake, or ends the connection at once: each time the news has to arrive.
        for _ in 0..5 {
            let error = connect(&url(&server, &files)).await.unwrap_err();
            is_denied(&error, &server, "received fatal alert");
            is_denied(&error, &server, words);
        }
    }
    let client = authority.client("locks").unwrap();
    let files = [
        ("ca_file", authority.certificate()),
        ("cert_file", client.certificate()),
        ("key_file", client.key()),
    ];
    connect(&url(&server, &files)).await.unwrap();
}

#[tokio::test]
async fn plain_text_to_a_port_with_tls_is_an_error_at_once_that_asks_for_tls() {
    let authority = Authority::new().unwrap();
    let server = server(&Tls::new(&authority, authority.server().unwrap())).await;
    let clock = SystemClock::new();
    let begun = clock.boot();
    let error = connect(&format!("etcd://{}", server.address())).await.unwrap_err();
    assert!(clock.boot().since(begun) < CONNECT_TIMEOUT);
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true), "{error}");
    assert!(error.message().contains("speak TLS (etcds)"), "{error}");
}

/// Etcd waits for the end of what it takes for a line, or says that it knows no such command.
#[tokio::test]
async fn tls_to_a_port_without_is_an_error_in_time() {
    let (authority, server) = (Authority::new().unwrap(), Etcd::start().await.unwrap());
    let clock = SystemClock::new();
    let begun = clock.boot();
    let error = connect(&url(&server, &[("ca_file", authority.certificate())])).await.unwrap_err();
    assert!(clock.boot().since(begun) < CONNECT_TIMEOUT * 2);
    assert!(error.message().contains("speak TLS"), "{error}");
    let kind_and_whether_it_passes = (error.kind().clone(), error.is_retryable());
    assert!(
        [(ErrorKind::Unavailable, true), (ErrorKind::Misconfigured, false)]
            .contains(&kind_and_whether_it_passes),
        "{error}"
    );
}

/// A server of another kind, or a proxy, that answers with something else.
#[tokio::test]
async fn what_does_not_speak_tls_is_said_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _answering = tokio::task::JoinSet::from_iter([async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
        }
    }]);
    let error = connect(&format!("etcds://{address}")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
    assert!(error.message().contains("does not speak TLS"), "{error}");
}
