//! The files: what is wrong with one is said by its name, and nothing of what is in it; good ones are handed on as they are.

use lock_conformance::servers::Authority;
use lock_conformance::tls::files::BadFiles;
use lock_core::ErrorKind;
use lock_tls::{InFiles, TlsFiles};

#[test]
fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_repeated() {
    let bad = BadFiles::new().unwrap();
    for case in bad.cases() {
        let files = TlsFiles { authority: case.authority.clone(), identity: case.identity.clone() };
        bad.check(case, &files.read().unwrap_err()).unwrap();
    }
}

#[test]
fn good_files_are_handed_on_as_they_are_and_as_rustls_takes_them() {
    let (authority, second) = (Authority::new().unwrap(), Authority::new().unwrap());
    let client = authority.client("locks").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("both.pem");
    let pem =
        [authority.certificate(), second.certificate()].map(|path| std::fs::read(path).unwrap()).concat();
    std::fs::write(&both, &pem).unwrap();
    let files = TlsFiles {
        authority: Some(both),
        identity: Some((client.certificate().to_owned(), client.key().to_owned())),
    };
    let InFiles { authority, identity } = files.read().unwrap();
    let (authority, identity) = (authority.unwrap(), identity.unwrap());
    assert_eq!((authority.pem, authority.known.len()), (pem, 2));
    assert_eq!(identity.certificate, std::fs::read(client.certificate()).unwrap());
    assert_eq!(identity.key, std::fs::read(client.key()).unwrap());
    assert_eq!(identity.certified.cert.len(), 1);
    assert_eq!(format!("{identity:?}"), "Identity { .. }");
}

#[test]
fn without_files_there_is_nothing_to_read() {
    let InFiles { authority, identity } = TlsFiles::default().read().unwrap();
    assert!(authority.is_none() && identity.is_none());
}

#[test]
fn files_are_for_servers_with_tls() {
    let none = TlsFiles::default();
    let authority = TlsFiles { authority: Some("/ca".into()), ..TlsFiles::default() };
    let identity = TlsFiles { identity: Some(("/c".into(), "/k".into())), ..TlsFiles::default() };
    assert!(none.is_empty());
    none.suit(false, "stores").unwrap();
    for files in [authority, identity] {
        assert!(!files.is_empty());
        files.suit(true, "stores").unwrap();
        let error = files.suit(false, "stores").unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false), "{error}");
        assert!(error.message().ends_with("it has to begin with stores"), "{error}");
    }
}
