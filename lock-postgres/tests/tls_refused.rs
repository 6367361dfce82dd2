//! Through TLS: whoever is not whom they claim to be is refused, and the error says why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod secured;

use lock_conformance::servers::{Authority, Certificate, ClientCertificates, PostgresSetup, Tls};
use lock_conformance::tls::{CONNECT_TIMEOUT, PASSWORD, TlsStore, flaws, query};
use lock_core::{Clock, Effect, Error, ErrorKind, LockClient, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::secured::{InPostgres, started};

/// It does not pass, nothing was done, and these words are in what is shown of it, and no password.
fn is_denied(error: &Error, address: &str, words: &[&str]) {
    let is = (error.kind(), error.is_retryable(), error.took_effect());
    assert_eq!(is, (&ErrorKind::Denied, false, Effect::NotApplied), "{error}");
    assert!(error.endpoint().unwrap().contains(address), "{error:?}");
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    for words in words {
        assert!(error.message().contains(words) || why.contains(words), "{words}: {error:?}");
    }
    // These are no query keys here.
    assert!(!["ca_file", "cert_file", "key_file"].iter().any(|key| error.message().contains(key)), "{error}");
    assert!(!format!("{error:?} {error:#?}").contains(PASSWORD), "{error:?}");
}

fn url(address: &str, authority: &Authority, client: Option<&Certificate>) -> String {
    format!("postgress://{address}?{}", query(authority.certificate(), client))
}

#[tokio::test]
async fn an_impostor_is_refused_whatever_is_wrong_with_it() {
    let authority = Authority::new().unwrap();
    for flaw in flaws(&authority).unwrap() {
        let server = InPostgres.start(Some(&Tls::new(&authority, flaw.certificate)), true).await.unwrap();
        let address = server.address();
        let advice = flaw.advice.replace("ca_file", "sslrootcert");
        let url = url(&address, &authority, None);
        let error = InPostgres.connect(&url).await.unwrap_err();
        is_denied(&error, &address, &[flaw.check, &advice]);

        // Nobody tries it again before the patience is over.
        let client = LockClient::builder(InPostgres.open(&url).unwrap()).build().unwrap();
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
        is_denied(&error, &address, &[flaw.check, &advice]);
        assert!(clock.boot().since(begun) < CONNECT_TIMEOUT);
    }
}

#[tokio::test]
async fn an_authority_that_nobody_has_named_is_not_known() {
    let authority = Authority::new().unwrap();
    let server =
        InPostgres.start(Some(&Tls::new(&authority, authority.server().unwrap())), true).await.unwrap();
    let error = InPostgres.connect(&format!("postgress://{}", server.address())).await.unwrap_err();
    is_denied(&error, &server.address(), &["UnknownIssuer", "sslrootcert"]);
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_its_certificate() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    for protocol in ["TLSv1.3", "TLSv1.2"] {
        let setup = PostgresSetup::new().tls(&tls).setting("ssl_max_protocol_version", protocol);
        let server = started(setup).await.unwrap();
        for (client, words) in [
            (None, "requires a valid client certificate"),
            (Some(authority.expired_client("locks").unwrap()), "client's certificate has expired"),
            (
                Some(stranger.client("locks").unwrap()),
                "does not know the authority of the client's certificate",
            ),
        ] {
            // The server refuses it behind the handshake, and ends the connection: where the driver was about to write, it does not
            // read what the server had to say.
            let url = url(&server.address(), &authority, client.as_ref());
            let error = loop {
                let error = InPostgres.connect(&url).await.unwrap_err();
                if *error.kind() != ErrorKind::Unavailable {
                    break error;
                }
                let said = error.message();
                assert!(["Broken pipe", "reset by peer"].iter().any(|words| said.contains(words)), "{error}");
            };
            is_denied(&error, &server.address(), &[words]);
        }
        let good = authority.client("locks").unwrap();
        InPostgres.connect(&url(&server.address(), &authority, Some(&good))).await.unwrap();
    }
}

#[tokio::test]
async fn plain_text_to_a_server_that_asks_for_tls_is_refused_with_the_servers_words() {
    let authority = Authority::new().unwrap();
    let server =
        InPostgres.start(Some(&Tls::new(&authority, authority.server().unwrap())), true).await.unwrap();
    let error = InPostgres.connect(&format!("postgres://{}", server.address())).await.unwrap_err();
    is_denied(&error, &server.address(), &["no encryption", "pg_hba.conf"]);
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_where_it_was_asked_for() {
    let (authority, server) = (Authority::new().unwrap(), InPostgres.start(None, false).await.unwrap());
    let error = InPostgres.connect(&url(&server.address(), &authority, None)).await.unwrap_err();
    is_denied(&error, &server.address(), &["server does not support TLS", "check sslmode"]);
}

/// A server of another kind, or a proxy, that answers with something else.
#[tokio::test]
async fn what_does_not_speak_it_is_said_to() {
    let answers: [&[u8]; 2] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SHTTP/1.1 400 Bad Request\r\n\r\n"];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _answering = JoinSet::from_iter([async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }]);
        let error = InPostgres.connect(&format!("postgress://{address}")).await.unwrap_err();
        let kinds = [ErrorKind::Misconfigured, ErrorKind::Protocol];
        assert!(kinds.contains(error.kind()) && !error.is_retryable(), "{error:?}");
        let words = ["is this PostgreSQL", "does not speak TLS"];
        assert!(words.iter().any(|words| error.message().contains(words)), "{error}");
    }
}
