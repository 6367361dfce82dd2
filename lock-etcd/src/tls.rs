//! From [`TlsFiles`] to what the driver and a connection without it take, and from errors to what is wrong.

use std::borrow::Cow;
use std::error::Error as StdError;

use etcd_client::{Certificate, Identity, TlsOptions};
use lock_core::{ErrorKind, Result};
use lock_tls::{TlsFiles, Words, explain_refusal};
use rustls::AlertDescription;

const WORDS: Words = Words {
    scheme: "etcd",
    // etcd before 3.6 says this of each of them.
    bad_certificate: Some(
        "the server does not accept the client's certificate: there has to be one (cert_file, key_file), of an authority \
         that the server knows, that has not expired",
    ),
};

/// As the driver wants them. The files are read once for each line.
pub(crate) fn options(files: &TlsFiles) -> Result<TlsOptions> {
    let files = files.read()?;
    let options = match files.authority {
        Some(authority) => TlsOptions::new().ca_certificate(Certificate::from_pem(authority.pem)),
        None => TlsOptions::new().with_native_roots(),
    };
    Ok(match files.identity {
        Some(identity) => options.identity(Identity::from_pem(identity.certificate, identity.key)),
        None => options,
    })
}

/// Why TLS is the reason that there is no connection.
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    /// In the words of who refused.
    pub(crate) said: String,
    pub(crate) advice: Cow<'static, str>,
}

/// Looks for a refusal among the causes of an error. None of them passes by itself.
pub(crate) fn refusal(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = refusal_in(error).or_else(|| refusal_in_text(&error.to_string())) {
            return Some(refusal);
        }
        cause = error.source();
    }
    None
}

fn refusal_in(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let (kind, advice) = explain_refusal(error, &WORDS)?;
    Some(Refusal { kind, said: error.to_string(), advice })
}

/// What comes behind the handshake passes through the driver as text.
fn refusal_in_text(said: &str) -> Option<Refusal> {
    if said.contains("HTTP/2 was not negotiated") {
        let advice = "what answers there with TLS is no etcd".into();
        return Some(Refusal { kind: ErrorKind::Misconfigured, said: said.to_owned(), advice });
    }
    let (_, alert) = said.rsplit_once("received fatal alert: ")?;
    let name: String = alert.chars().take_while(char::is_ascii_alphanumeric).collect();
    refusal_in(&rustls::Error::AlertReceived(alert_named(&name)?))
}

fn alert_named(name: &str) -> Option<AlertDescription> {
    [
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateExpired,
        AlertDescription::UnknownCA,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::AccessDenied,
        AlertDescription::DecryptError,
    ]
    .into_iter()
    .find(|alert| format!("{alert:?}") == name)
}
