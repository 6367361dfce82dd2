//! The files for TLS: what is wrong with one is said by its name, and nothing of what is in it; and the machine's own certificates.

mod secured;

use lock_conformance::tls::files::{self, Own};
use lock_core::ErrorKind;
use lock_redis::{RedisOptions, redis};

use crate::secured::InRedis;

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_repeated() {
    files::bad_files(&InRedis).await.unwrap();
}

#[tokio::test]
async fn files_that_belong_together_or_to_tls_are_refused_alone_and_without_it() {
    files::misplaced_files(&InRedis).await.unwrap();
    for url in [
        "redis+unix:///run/redis.sock?ca_file=/a",
        "redis+sentinel://127.0.0.1:1/locks?ca_file=/a",
        "redis+cluster://127.0.0.1:1?ca_file=/a",
    ] {
        files::is_misconfigured(&InRedis, url, "begin with rediss").await.unwrap();
    }
    let driver = redis::Client::open("redis://127.0.0.1:1").unwrap();
    let error = lock_redis::backend(&driver, RedisOptions::new().ca_file("/a")).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{error}");
}

#[tokio::test]
async fn the_machines_own_certificates_are_read_even_where_a_ca_file_is_given() {
    let test = "the_machines_own_certificates_are_read_even_where_a_ca_file_is_given";
    let unreadable = "Misconfigured: .*SSL_CERT_FILE";
    let cases = [
        ("SSL_CERT_DIR", Own::Empty, true, "connected"),
        ("SSL_CERT_DIR", Own::Empty, false, "Denied: .*UnknownIssuer.*ca_file"),
        ("SSL_CERT_FILE", Own::Authority, false, "connected"),
        ("SSL_CERT_FILE", Own::Nowhere, false, unreadable),
        // The driver reads them all the same.
        ("SSL_CERT_FILE", Own::Nowhere, true, unreadable),
        ("SSL_CERT_FILE", Own::Damaged, true, unreadable),
        ("SSL_CERT_DIR", Own::Nowhere, true, unreadable),
    ];
    files::machines_own(&InRedis, test, &cases).await.unwrap();
}
