//! [`TlsFiles`]: certificates, and the library that checks them; what is wrong when it refuses.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::{Certificate, Identity, TlsOptions};
use lock_core::{Error, ErrorKind, Result};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

/// Files in PEM.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsFiles {
    /// Who vouches for servers; the machine's own unless set.
    pub(crate) authority: Option<PathBuf>,
    /// The client's certificate and private key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    pub(crate) fn is_empty(&self) -> bool {
        self.authority.is_none() && self.identity.is_none()
    }

    /// Refuses files for servers without TLS: somebody believes that there is some.
    pub(crate) fn suit(&self, with_tls: bool) -> Result<()> {
        if with_tls || self.is_empty() {
            return Ok(());
        }
        Err(wrong(
            "files for TLS are given, and the URL asks for none: it has to begin with etcds".to_owned(),
        ))
    }

    /// As the driver wants them. The files are small, and read once for each line.
    pub(crate) fn options(&self) -> Result<TlsOptions> {
        let provider = choose_provider();
        let mut options = match &self.authority {
            Some(path) => TlsOptions::new().ca_certificate(Certificate::from_pem(read_authority(path)?)),
            None => TlsOptions::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(read_identity(certificate, key, &provider)?);
        }
        Ok(options)
    }

    /// The same for a connection without the driver. `None` where the driver would not get as far as this either.
    pub(crate) fn config(&self) -> Option<ClientConfig> {
        let provider = choose_provider();
        let mut known = RootCertStore::empty();
        let authorities = match &self.authority {
            Some(path) => chain(path, &read(path).ok()?).ok()?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        known.add_parsable_certificates(authorities);
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        let builder = builder.with_root_certificates(known);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(&read(key).ok()?).ok()?;
                builder.with_client_auth_cert(chain(certificate, &read(certificate).ok()?).ok()?, key).ok()?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.push(b"h2".to_vec());
        Some(config)
    }
}

/// What the application has chosen stays; otherwise it is this one. The driver takes the provider of the whole process, and
/// without one whichever was compiled in first.
pub(crate) fn choose_provider() -> Arc<CryptoProvider> {
    if CryptoProvider::get_default().is_none() {
        // Somebody else was faster: theirs is as good.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// The driver would take a file without any certificate, and then trust nobody.
fn read_authority(path: &Path) -> Result<Vec<u8>> {
    let pem = read(path)?;
    let mut known = RootCertStore::empty();
    for certificate in chain(path, &pem)? {
        known.add(certificate).map_err(|_| {
            wrong(format!("the file {} for TLS (ca_file) has a certificate that is none", path.display()))
        })?;
    }
    Ok(pem)
}

/// The driver would not say which of the two is wrong.
fn read_identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Identity> {
    let (public, secret) = (read(certificate)?, read(key)?);
    let chain = chain(certificate, &public)?;
    // Not the library's words: they may repeat a line of the file.
    let private = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| {
        wrong(format!(
            "the file {} for TLS (key_file) has no private key in PEM that can be read; one with a passphrase cannot",
            key.display()
        ))
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        wrong(match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the private key in {key} is not that of the certificate in {certificate}")
            }
            _ => format!("{certificate} and {key} hold no certificate and private key that TLS can use"),
        })
    })?;
    Ok(Identity::from_pem(public, secret))
}

/// The certificates in a file, at least one.
fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| {
        wrong(format!("the file {} for TLS has no certificate in PEM, or a damaged one", path.display()))
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        wrong(format!("the file {} for TLS cannot be read: {error}", path.display())).caused_by(error)
    })
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}

/// Why TLS is the reason that there is no connection.
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    /// In the words of who refused.
    pub(crate) said: String,
    pub(crate) advice: &'static str,
}

/// Looks for a refusal among the causes of an error. None of them passes by itself.
pub(crate) fn refusal(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some((said, (kind, advice))) = explain(error) {
            return Some(Refusal { kind, said, advice });
        }
        cause = error.source();
    }
    None
}

type Advice = (ErrorKind, &'static str);

fn explain(error: &(dyn StdError + 'static)) -> Option<(String, Advice)> {
    let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
        // An error of I/O has no cause but what it wraps, and says so only here.
        error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()
    });
    if let Some(tls) = tls {
        return Some((tls.to_string(), explain_refusal(tls)?));
    }
    if error.is::<InvalidDnsNameError>() {
        let advice = "no certificate can be for this host: it is no name";
        return Some((error.to_string(), (ErrorKind::Misconfigured, advice)));
    }
    // What comes behind the handshake passes through the driver as text.
    let said = error.to_string();
    if said.contains("HTTP/2 was not negotiated") {
        return Some((said, (ErrorKind::Misconfigured, "what answers there with TLS is no etcd")));
    }
    let (_, alert) = said.rsplit_once("received fatal alert: ")?;
    let name: String = alert.chars().take_while(char::is_ascii_alphanumeric).collect();
    let advice = explain_alert(alert_named(&name)?)?;
    Some((format!("received fatal alert: {name}"), advice))
}

fn explain_refusal(error: &rustls::Error) -> Option<Advice> {
    use ErrorKind::{Denied, Misconfigured};
    Some(match error {
        rustls::Error::InvalidCertificate(why) => (Denied, explain_certificate(why)),
        rustls::Error::NoCertificatesPresented => (Denied, "the server has shown no certificate"),
        rustls::Error::AlertReceived(alert) => return explain_alert(*alert),
        rustls::Error::PeerIncompatible(_) => {
            (Misconfigured, "the server's TLS is too old or has no cipher in common: it has to be 1.2 or 1.3")
        }
        rustls::Error::InvalidMessage(_) => {
            (Misconfigured, "what answers there does not speak TLS: without it, the URL begins with etcd")
        }
        _ => return None,
    })
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
fn explain_alert(alert: AlertDescription) -> Option<Advice> {
    use ErrorKind::{Denied, Misconfigured};
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
        // etcd before 3.6 says this of each of them.
        AlertDescription::BadCertificate => (
            Denied,
            "the server does not accept the client's certificate: there has to be one (cert_file, key_file), of an authority \
             that the server knows, that has not expired",
        ),
        AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            (Denied, "the server does not accept the client's certificate (cert_file)")
        }
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
