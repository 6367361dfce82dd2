//! What is said when a handshake fails: of rustls with itself, in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::path::Path;
use std::sync::Arc;

use lock_conformance::servers::{Authority, Certificate};
use lock_conformance::tls::flaws;
use lock_core::ErrorKind;
use lock_tls::{TlsFiles, Words, choose_provider, explain_refusal};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

const WORDS: Words = Words { scheme: "store", bad_certificate: None };
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn files(authority: &Path, identity: Option<&Certificate>) -> TlsFiles {
    let identity = identity.map(|of| (of.certificate().to_owned(), of.key().to_owned()));
    TlsFiles { authority: Some(authority.to_owned()), identity }
}

fn client(files: &TlsFiles, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
    let files = files.read().unwrap();
    let builder = ClientConfig::builder_with_provider(choose_provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(files.authority.unwrap().known);
    let config = match files.identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified)))
        }
        None => builder.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1").unwrap()).unwrap()
}

/// A server that goes by this authority, and asks clients for certificates.
fn asking(files: &TlsFiles, versions: &[&'static SupportedProtocolVersion]) -> ServerConnection {
    let files = files.read().unwrap();
    let known = Arc::new(files.authority.unwrap().known);
    let verifier = WebPkiClientVerifier::builder_with_provider(known, choose_provider()).build().unwrap();
    let config = ServerConfig::builder_with_provider(choose_provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(files.identity.unwrap().certified)));
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// What the client makes of it, until nobody has anything more to say.
fn outcome(mut client: ClientConnection, mut server: ServerConnection) -> Result<(), Error> {
    loop {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).unwrap();
        }
        let mut heard = &*said;
        while !heard.is_empty() {
            server.read_tls(&mut heard).unwrap();
            // What it makes of it, it tells the client.
            let _ = server.process_new_packets();
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        let mut heard = &*answer;
        while !heard.is_empty() {
            client.read_tls(&mut heard).unwrap();
            client.process_new_packets()?;
        }
        if said.is_empty() && answer.is_empty() {
            assert!(!client.is_handshaking());
            return Ok(());
        }
    }
}

fn is_explained(error: &Error, kind: &ErrorKind, words: &str) {
    let (found, advice) = explain_refusal(error, &WORDS).unwrap();
    assert!(found == *kind && advice.contains(words), "{error}: {found:?}, {advice}");
    // As a stream tells it.
    let wrapped = io::Error::new(io::ErrorKind::InvalidData, error.clone());
    assert_eq!(explain_refusal(&wrapped, &WORDS), Some((found, advice)));
}

#[test]
fn a_server_whose_certificate_does_not_hold() {
    let authority = Authority::new().unwrap();
    let own = authority.client("locks").unwrap();
    for flaw in flaws(&authority).unwrap() {
        let server = asking(&files(authority.certificate(), Some(&flaw.certificate)), &BOTH);
        let client = client(&files(authority.certificate(), Some(&own)), &BOTH);
        let error = outcome(client, server).unwrap_err();
        assert!(error.to_string().contains(flaw.check), "{}: {error}", flaw.name);
        is_explained(&error, &ErrorKind::Denied, flaw.advice);
    }
}

#[test]
fn a_client_whose_certificate_does_not_hold() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let of_server = authority.server().unwrap();
    let (expired, unknown) = (authority.expired_client("locks").unwrap(), stranger.client("locks").unwrap());
    for (identity, versions, words) in [
        (None, [&TLS13], "asks clients for a certificate: name one"),
        (None, [&TLS12], "asks clients for a certificate"),
        (Some(&expired), [&TLS13], "has expired: renew cert_file"),
        (Some(&unknown), [&TLS13], "does not accept the client's certificate (cert_file)"),
    ] {
        let server = asking(&files(authority.certificate(), Some(&of_server)), &BOTH);
        let client = client(&files(authority.certificate(), identity), &versions);
        is_explained(&outcome(client, server).unwrap_err(), &ErrorKind::Denied, words);
    }
    let server = asking(&files(authority.certificate(), Some(&of_server)), &BOTH);
    let own = authority.client("locks").unwrap();
    outcome(client(&files(authority.certificate(), Some(&own)), &BOTH), server).unwrap();
}

#[test]
fn a_version_that_the_other_does_not_know() {
    let authority = Authority::new().unwrap();
    let (of_server, of_client) = (authority.server().unwrap(), authority.client("locks").unwrap());
    let server = asking(&files(authority.certificate(), Some(&of_server)), &[&TLS12]);
    let client = client(&files(authority.certificate(), Some(&of_client)), &[&TLS13]);
    let error = outcome(client, server).unwrap_err();
    is_explained(&error, &ErrorKind::Misconfigured, "it has to be 1.2 or 1.3");
}

#[test]
fn what_does_not_speak_tls() {
    let authority = Authority::new().unwrap();
    let mut client = client(&files(authority.certificate(), None), &BOTH);
    client.read_tls(&mut &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]).unwrap();
    let error = client.process_new_packets().unwrap_err();
    is_explained(&error, &ErrorKind::Misconfigured, "without it, the URL begins with store");
}

#[test]
fn a_store_has_words_of_its_own_for_a_certificate_that_its_servers_call_bad() {
    let error = Error::AlertReceived(AlertDescription::BadCertificate);
    is_explained(&error, &ErrorKind::Denied, "does not accept the client's certificate (cert_file)");
    let own = Words { bad_certificate: Some("look at it"), ..WORDS };
    let (kind, advice) = explain_refusal(&error, &own).unwrap();
    assert_eq!((kind, &*advice), (ErrorKind::Denied, "look at it"));
    // And for nothing else.
    let other = Error::AlertReceived(AlertDescription::CertificateRevoked);
    assert_eq!(explain_refusal(&other, &own), explain_refusal(&other, &WORDS));
}

#[test]
fn a_host_that_is_no_name() {
    let error = ServerName::try_from("no name").unwrap_err();
    let (kind, advice) = explain_refusal(&error, &WORDS).unwrap();
    assert_eq!(kind, ErrorKind::Misconfigured);
    assert!(advice.contains("it is no name"), "{advice}");
}

#[test]
fn what_is_not_about_tls_is_left_to_others() {
    assert_eq!(explain_refusal(&io::Error::from(io::ErrorKind::ConnectionRefused), &WORDS), None);
    assert_eq!(explain_refusal(&io::Error::other("something else"), &WORDS), None);
    assert_eq!(explain_refusal(&Error::General("something else".to_owned()), &WORDS), None);
}
