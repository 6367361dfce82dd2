//! What is wrong with a file is said by its name, and nothing of what is in it; and the machine's own certificates.

use std::path::{Path, PathBuf};

use lock_core::{Error, ErrorKind};
use tempfile::TempDir;
use tokio::process::Command;

use super::{TlsStore, query};
use crate::servers::{Authority, Certificate, Tls};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

/// Files that cannot be used, and what is in them that nobody is to see.
#[derive(Debug)]
pub struct BadFiles {
    cases: Vec<BadFile>,
    /// As text, and as the numbers of its bytes.
    secrets: Vec<String>,
    _files: (TempDir, [Certificate; 2]),
}

/// What a client names, one of which is bad.
#[derive(Clone, Debug)]
pub struct BadFile {
    /// `ca_file`.
    pub authority: Option<PathBuf>,
    /// `cert_file` and `key_file`.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The bad one.
    pub wrong: PathBuf,
}

impl BadFiles {
    /// One of each kind.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn new() -> Verdict<BadFiles> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let (client, other) = (authority.client("locks")?, authority.client("other")?);
        let (certificate, key) = (client.certificate().to_owned(), client.key().to_owned());
        let another = other.key().to_owned();
        let (public, secret) = (std::fs::read_to_string(&certificate)?, std::fs::read_to_string(&key)?);
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        let (nowhere, here) = (directory.path().join("nowhere.pem"), directory.path().to_owned());
        let empty = file("empty.pem", "")?;
        let garbage = file("garbage.pem", "-----BEGIN NOTHING-----\nhunter2\n")?;
        let no_base64 = file(
            "no-base64.pem",
            "-----BEGIN CERTIFICATE-----\n\u{fffd}hunter2\n-----END CERTIFICATE-----\n",
        )?;
        let not_x509 =
            file("not-x509.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
        let (half_certificate, half_key) =
            (file("half.crt", half(&public))?, file("half.key", half(&secret))?);
        let twisted_key = file("twisted.key", &secret.replacen('M', "A", 1))?;
        let joined_key = file("joined.key", &secret.replacen("KEY-----\n", "KEY-----", 1))?;
        let encrypted = file("encrypted.key", &secret.replace("PRIVATE", "ENCRYPTED PRIVATE"))?;

        let everywhere = [&nowhere, &here, &empty, &garbage];
        let certificates = [&no_base64, &not_x509, &half_certificate, &key];
        let keys = [&half_key, &twisted_key, &joined_key, &encrypted, &certificate, &another];
        let mut cases = Vec::new();
        for &wrong in everywhere.iter().chain(&certificates) {
            cases.push(BadFile { authority: Some(wrong.clone()), identity: None, wrong: wrong.clone() });
            let identity = Some((wrong.clone(), key.clone()));
            cases.push(BadFile { authority: None, identity, wrong: wrong.clone() });
        }
        for &wrong in everywhere.iter().chain(&keys) {
            let identity = Some((certificate.clone(), wrong.clone()));
            cases.push(BadFile { authority: None, identity, wrong: wrong.clone() });
        }
        let secrets = secrets([&secret, &std::fs::read_to_string(other.key())?, "hunter2"]);
        Ok(BadFiles { cases, secrets, _files: (directory, [client, other]) })
    }

    /// All of them.
    pub fn cases(&self) -> &[BadFile] {
        &self.cases
    }

    /// Such an error names the bad file, says that it does not pass, and repeats nothing of what is in any of them.
    ///
    /// # Errors
    /// What has failed.
    pub fn check(&self, case: &BadFile, error: &Error) -> Verdict {
        let (wrong, shown) = (case.wrong.display().to_string(), format!("{error} | {error:?}"));
        expect_eq("kind", (error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false))?;
        expect(error.message().contains(&wrong), format_args!("an error that names {wrong}"), error)?;
        for secret in &self.secrets {
            expect(!shown.contains(secret), format_args!("nothing of {secret}"), &shown)?;
        }
        Ok(())
    }
}

/// The end of it is missing.
fn half(pem: &str) -> &str {
    &pem[..pem.len() / 2]
}

/// Each line's beginning.
fn secrets(texts: [&str; 3]) -> Vec<String> {
    let lines =
        texts.into_iter().flat_map(str::lines).filter(|line| !line.starts_with('-') && !line.is_empty());
    lines
        .flat_map(|line| {
            let line = &line[..line.len().min(10)];
            let numbers = format!("{:?}", line.as_bytes());
            [line.to_owned(), numbers.trim_matches(['[', ']']).to_owned()]
        })
        .collect()
}

/// A file that cannot be used is named before anybody is connected to, and nothing of it is repeated.
///
/// # Errors
/// What has failed.
pub async fn bad_files<S: TlsStore>(store: &S) -> Verdict {
    let files = BadFiles::new()?;
    for case in files.cases() {
        let mut named = Vec::new();
        named.extend(case.authority.as_ref().map(|path| ("ca_file", path)));
        let identity = case.identity.as_ref();
        named.extend(
            identity
                .into_iter()
                .flat_map(|(certificate, key)| [("cert_file", certificate), ("key_file", key)]),
        );
        let named: Vec<_> =
            named.into_iter().map(|(key, path)| format!("{key}={}", path.display())).collect();
        let url = format!("{}s://127.0.0.1:1?{}", store.scheme(), named.join("&"));
        let error = store.connect(&url).await.err();
        let error = error.ok_or_else(|| Failure::new("a refusal", format_args!("none of {case:?}")))?;
        files.check(case, &error)?;
    }
    Ok(())
}

/// A certificate without its key or a key without its certificate, files for a URL that asks for no TLS, and a fragment are
/// refused.
///
/// # Errors
/// What has failed.
pub async fn misplaced_files<S: TlsStore>(store: &S) -> Verdict {
    let plain = store.scheme();
    let begin = format!("begin with {plain}s");
    for (url, words) in [
        (format!("{plain}s://127.0.0.1:1?cert_file=/c"), "belong together"),
        (format!("{plain}s://127.0.0.1:1?key_file=/k"), "belong together"),
        (format!("{plain}://127.0.0.1:1?ca_file=/a"), &begin),
        (format!("{plain}://127.0.0.1:1?cert_file=/c&key_file=/k"), &begin),
        // With some drivers, it turns the check off.
        (format!("{plain}s://127.0.0.1:1#insecure"), "#"),
    ] {
        is_misconfigured(store, &url, words).await?;
    }
    Ok(())
}

/// A URL is refused, in these words.
///
/// # Errors
/// It is not.
pub async fn is_misconfigured<S: TlsStore>(store: &S, url: &str, words: &str) -> Verdict {
    let error = store.connect(url).await.err();
    let error = error.ok_or_else(|| Failure::new(format_args!("a refusal of {url}"), "none"))?;
    expect(
        *error.kind() == ErrorKind::Misconfigured && error.message().contains(words),
        format_args!("a URL that is wrong ({words}): {url}"),
        error,
    )
}

/// What a variable of the environment leads to, where the machine's own certificates are looked for.
#[derive(Clone, Copy, Debug)]
pub enum Own {
    /// A directory without any, as in a container that has none.
    Empty,
    /// The server's authority.
    Authority,
    /// Nothing is there.
    Nowhere,
    /// A file that is no certificate.
    Damaged,
}

/// Where a child of a test is to connect to.
const CHILD: &str = "FENCEPOST_TEST_TLS_URL";

/// What whoever connects says, with a variable that leads there, and with a `ca_file` or without: `connected` or the kind of the
/// error and its message, which has the parts of what is expected between each `.*` one behind the other.
///
/// The environment is the whole process's, so that each case has one of its own: it runs the test of this name again, which does
/// nothing else.
///
/// # Errors
/// What has failed.
pub async fn machines_own<S: TlsStore>(store: &S, test: &str, cases: &[(&str, Own, bool, &str)]) -> Verdict {
    if let Ok(url) = std::env::var(CHILD) {
        say(store, &url).await;
        return Ok(());
    }
    let (authority, directory) = (Authority::new()?, tempfile::tempdir()?);
    let server = store.start(Some(&Tls::new(&authority, authority.server()?)), false).await?;
    let [empty, nowhere, damaged] = ["empty", "nowhere", "damaged"].map(|name| directory.path().join(name));
    std::fs::create_dir(&empty)?;
    std::fs::write(&damaged, "-----BEGIN CERTIFICATE-----\nAAAA\n")?;
    for (variable, own, with_ca_file, expected) in cases {
        let value = match own {
            Own::Empty => &empty,
            Own::Authority => authority.certificate(),
            Own::Nowhere => &nowhere,
            Own::Damaged => &damaged,
        };
        let query = if *with_ca_file { query(authority.certificate(), None) } else { String::new() };
        let url = format!("{}s://{}?{query}", store.scheme(), store.address(&server));
        let said = child(test, variable, value, &url, directory.path()).await?;
        let mut rest = &*said;
        for words in expected.split(".*") {
            let at = rest.find(words).ok_or_else(|| {
                let case = format!("{variable}={} and {query}", value.display());
                Failure::new(format_args!("with {case}: {expected}"), &said)
            })?;
            rest = &rest[at..];
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a child tells its parent")]
async fn say<S: TlsStore>(store: &S, url: &str) {
    match store.connect(url).await {
        Ok(_) => println!("connected"),
        Err(error) => println!("{:?}: {}", error.kind(), error.message()),
    }
}

/// What a child says that connects with this environment.
async fn child(test: &str, variable: &str, value: &Path, url: &str, home: &Path) -> Verdict<String> {
    let output = Command::new(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture"])
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .env(variable, value)
        .env(CHILD, url)
        .current_dir(home)
        .output()
        .await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
