//! The files for TLS: what is wrong with one is said, and nothing of what is in it; and whose authorities count.

mod secured;

use std::path::Path;

use lock_conformance::servers::{Authority, Tls};
use lock_conformance::tls::TlsStore;
use lock_conformance::tls::files::{self, BadFiles, Own};

use lock_core::ErrorKind;

use crate::secured::InPostgres;

/// Of one that is missing, the driver says no more than of a server that cannot be reached.
#[tokio::test]
async fn a_file_that_cannot_be_used_is_an_error_and_nothing_of_it_is_repeated() {
    let authority = Authority::new().unwrap();
    let server =
        InPostgres.start(Some(&Tls::new(&authority, authority.server().unwrap())), false).await.unwrap();
    let files = BadFiles::new().unwrap();
    for case in files.cases() {
        let known = case.authority.as_deref().unwrap_or(authority.certificate());
        let mut url = format!("postgress://{}?ca_file={}", server.address(), known.display());
        let mut named = vec![known];
        if let Some((certificate, key)) = &case.identity {
            url += &format!("&cert_file={}&key_file={}", certificate.display(), key.display());
            named.extend([certificate.as_path(), key]);
        }
        let error = InPostgres.connect(&url).await.unwrap_err();
        let is_there = case.wrong.is_file();
        let kinds = [ErrorKind::Misconfigured, ErrorKind::Denied];
        assert!(!is_there || kinds.contains(error.kind()) && !error.is_retryable(), "{case:?}: {error:?}");
        let shown = format!("{error} {error:?} {error:#?}");
        for line in named.into_iter().flat_map(lines) {
            let end = &line.as_bytes()[line.len().saturating_sub(6)..];
            let numbers: Vec<_> = end.iter().map(u8::to_string).collect();
            for secret in [line.clone(), numbers.join(", ")] {
                assert!(!shown.contains(&secret), "{case:?} repeats {secret}: {shown}");
            }
        }
    }
}

/// What is in it, but for what begins and ends its parts.
fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.len() > 5 && !line.ends_with('-')).map(str::to_owned).collect()
}

/// The driver brings those of the web along, and looks at no variable and no directory of the machine.
#[tokio::test]
async fn the_machines_own_certificates_are_not_read() {
    let test = "the_machines_own_certificates_are_not_read";
    let unknown = "Denied: .*authority that is not known here.*sslrootcert";
    let cases = [
        ("SSL_CERT_FILE", Own::Authority, false, unknown),
        ("SSL_CERT_DIR", Own::Empty, false, unknown),
        ("SSL_CERT_DIR", Own::Empty, true, "connected"),
        ("SSL_CERT_FILE", Own::Damaged, true, "connected"),
        ("SSL_CERT_FILE", Own::Nowhere, true, "connected"),
    ];
    files::machines_own(&InPostgres, test, &cases).await.unwrap();
}
