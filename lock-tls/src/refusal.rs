//! [`explain_refusal`]: why TLS is the reason that there is no connection, and what to do.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;

use lock_core::ErrorKind;
use rustls::pki_types::InvalidDnsNameError;
use rustls::{AlertDescription, CertificateError};

/// What a store's advice has of its own.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// What the store's URLs begin with when they ask for no TLS: `redis`.
    pub scheme: &'static str,
    /// What to do when a server calls the client's certificate bad, where its servers say so of more than that.
    pub bad_certificate: Option<&'static str>,
}

type Advice = (ErrorKind, Cow<'static, str>);

/// The kind of a refusal, and what to do about it; `None` if the error is not about TLS, or does not say what is wrong.
///
/// It looks at this error alone, which is rustls's, one of I/O that wraps that, or that of a host which is no name. Its causes,
/// and what a driver wraps around it, are the backend's to go through. None of what it explains passes by itself.
pub fn explain_refusal(error: &(dyn StdError + 'static), words: &Words) -> Option<Advice> {
    if error.is::<InvalidDnsNameError>() {
        return Some((ErrorKind::Misconfigured, "no certificate can be for this host: it is no name".into()));
    }
    let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
        // An error of I/O has no cause but what it wraps, and says so only here.
        error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
    })?;
    let (kind, advice) = match tls {
        rustls::Error::InvalidMessage(_) => {
            let advice = format!(
                "what answers there does not speak TLS: without it, the URL begins with {}",
                words.scheme
            );
            return Some((ErrorKind::Misconfigured, advice.into()));
        }
        rustls::Error::InvalidCertificate(why) => (ErrorKind::Denied, explain_certificate(why)),
        rustls::Error::NoCertificatesPresented => (ErrorKind::Denied, "the server has shown no certificate"),
        rustls::Error::AlertReceived(alert) => explain_alert(*alert, words)?,
        rustls::Error::PeerIncompatible(_) => (
            ErrorKind::Misconfigured,
            "the server's TLS is too old or has no cipher in common: it has to be 1.2 or 1.3",
        ),
        _ => return None,
    };
    Some((kind, advice.into()))
}

fn explain_certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it there, or set this machine's clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: set this machine's clock, or the one of who issued it"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host: connect to one of its names, or have this one added to it"
        }
        // Where an authority that is known has the same name, it is the signature that is wrong.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is of an authority that is not known here: name that one's certificate as ca_file"
        }
        _ => "the server's certificate is not accepted: renew it there",
    }
}

/// What the server says of the client.
fn explain_alert(alert: AlertDescription, words: &Words) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind::{Denied, Misconfigured};
    const NOT_ACCEPTED: &str = "the server does not accept the client's certificate (cert_file)";
    Some(match alert {
        AlertDescription::CertificateRequired => (
            Denied,
            "the server asks clients for a certificate: name one, with its key, as cert_file and key_file",
        ),
        AlertDescription::CertificateExpired => (
            Denied,
            "the server says that the client's certificate has expired: renew cert_file and key_file",
        ),
        AlertDescription::UnknownCA => {
            (Denied, "the server does not know the authority of the client's certificate (cert_file)")
        }
        AlertDescription::BadCertificate => (Denied, words.bad_certificate.unwrap_or(NOT_ACCEPTED)),
        AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => (Denied, NOT_ACCEPTED),
        AlertDescription::HandshakeFailure => (
            Denied,
            "the server asks clients for a certificate (cert_file, key_file), or has no cipher in common with this one",
        ),
        AlertDescription::ProtocolVersion => {
            (Misconfigured, "the server's TLS is too old: it has to be 1.2 or 1.3")
        }
        _ => return None,
    })
}
