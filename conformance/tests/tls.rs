//! Redis over TLS, as the harness starts it: with certificates of an authority of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use lock_conformance::servers::{Authority, Certificate, ClientCertificates, Redis, RedisSetup, Reply, Tls};

#[tokio::test]
async fn whoever_knows_the_authority_is_served_and_nobody_else() {
    let authority = Authority::new().unwrap();
    let redis = server(&Tls::new(&authority, authority.server().unwrap())).await;
    assert_eq!(redis.url(), format!("rediss://127.0.0.1:{}", redis.port()));
    is_served(&client(&redis, &authority, None));
    let stranger = client(&redis, &Authority::new().unwrap(), None);
    assert!(said(&stranger).contains("certificate verify failed"), "{}", said(&stranger));
    let plain = Command::new("redis-cli").args(["-p", &redis.port().to_string(), "PING"]).output().unwrap();
    assert!(!said(&plain).contains("PONG"), "{}", said(&plain));
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused_where_one_is_asked_for() {
    use ClientCertificates::{Optional, Required, Unasked};
    let (authority, foreign) = (Authority::new().unwrap(), Authority::new().unwrap());
    let good = authority.client("client").unwrap();
    let expired = authority.expired_client("client").unwrap();
    let foreign = foreign.client("client").unwrap();
    for (asked, without, with_bad) in
        [(Unasked, true, true), (Optional, true, false), (Required, false, false)]
    {
        let tls = Tls::new(&authority, authority.server().unwrap()).client_certificates(asked);
        let redis = server(&tls).await;
        let served = |certificate| said(&client(&redis, &authority, certificate)).contains("PONG");
        assert!(served(Some(&good)), "{asked:?}");
        assert_eq!(served(None), without, "{asked:?}");
        assert_eq!(served(Some(&expired)), with_bad, "{asked:?}");
        assert_eq!(served(Some(&foreign)), with_bad, "{asked:?}");
    }
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_not_trusted() {
    let authority = Authority::new().unwrap();
    let redis = server(&Tls::new(&authority, authority.expired_server().unwrap())).await;
    let refused = client(&redis, &authority, None);
    assert!(said(&refused).contains("certificate verify failed"), "{}", said(&refused));
}

#[tokio::test]
async fn a_server_that_speaks_tls_can_be_killed_and_started_again() {
    let authority = Authority::new().unwrap();
    let tls = Tls::new(&authority, authority.server().unwrap());
    let redis = RedisSetup::new().persistent().password("secret").tls(&tls).start().await.unwrap();
    // Its files stay as long as the server may need them.
    drop((authority, tls));
    redis.command(["SET", "k", "v"]).await.unwrap();
    redis.kill().await.unwrap();
    assert!(redis.command(["PING"]).await.is_err());
    redis.start_again().await.unwrap();
    assert_eq!(redis.command(["GET", "k"]).await.unwrap(), Reply::Text("v".to_owned()));
}

#[tokio::test]
async fn a_replica_calls_its_primary_over_tls() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let primary = RedisSetup::new().replicated().tls(&tls).start().await.unwrap();
    primary.command(["SET", "k", "v"]).await.unwrap();
    let replica = RedisSetup::new().tls(&tls).start_replica_of(&primary).await.unwrap();
    assert_eq!(replica.command(["GET", "k"]).await.unwrap(), Reply::Text("v".to_owned()));
}

#[test]
fn a_server_is_certified_for_the_names_that_are_asked_for() {
    let authority = Authority::new().unwrap();
    let here = der(authority.server().unwrap().certificate());
    let elsewhere = der(authority.server_named(["elsewhere.test", "192.0.2.7"]).unwrap().certificate());
    // As they stand in the certificate: the kind of name, its length, and the name.
    let (localhost, loopback) = (b"\x82\x09localhost".as_slice(), b"\x87\x04\x7f\x00\x00\x01".as_slice());
    let (named, numbered) = (b"\x82\x0eelsewhere.test".as_slice(), b"\x87\x04\xc0\x00\x02\x07".as_slice());
    for (certificate, yes, no) in [
        (here, [localhost, loopback], [named, numbered]),
        (elsewhere, [named, numbered], [localhost, loopback]),
    ] {
        let says = |name: &[u8]| certificate.windows(name.len()).any(|bytes| bytes == name);
        assert!(yes.iter().all(|name| says(name)) && !no.iter().any(|name| says(name)));
    }
}

#[test]
fn files_are_this_users_alone_and_go_with_the_last_who_needs_them() {
    let authority = Authority::new().unwrap();
    let (first, second) = (authority.server().unwrap(), authority.server_named(["elsewhere.test"]).unwrap());
    assert_ne!(first.key(), second.key());
    let files = [authority.certificate(), first.certificate(), first.key(), second.key()].map(Path::to_owned);
    for file in &files {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    drop((authority, first));
    assert!(second.key().exists());
    drop(second);
    assert!(files.iter().all(|file| !file.exists()));
}

/// What is in a PEM file.
fn der(path: &Path) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('-'));
    let digits: Vec<_> = lines
        .flat_map(str::bytes)
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte))
        .collect();
    let bytes = digits.chunks_exact(4).flat_map(|four| {
        let number = four.iter().fold(0, |number, digit| number << 6 | digit);
        [number >> 16, number >> 8, number].map(|byte| u8::try_from(byte & 0xff).unwrap())
    });
    bytes.collect()
}

async fn server(tls: &Tls) -> Redis {
    RedisSetup::new().tls(tls).start().await.unwrap()
}

/// Another program's client, which knows this authority.
fn client(redis: &Redis, authority: &Authority, certificate: Option<&Certificate>) -> Output {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &redis.port().to_string(), "--tls", "--cacert"]).arg(authority.certificate());
    if let Some(certificate) = certificate {
        command.arg("--cert").arg(certificate.certificate()).arg("--key").arg(certificate.key());
    }
    command.arg("PING").output().unwrap()
}

fn is_served(output: &Output) {
    assert!(said(output).contains("PONG"), "{}", said(output));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
