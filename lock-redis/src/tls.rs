//! [`TlsFiles`]: certificates, and the library that checks them; what is wrong when it refuses.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lock_core::{Error, ErrorKind, Result};
use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, RootCertStore};

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
            "files for TLS are given, and the URL asks for none: it has to begin with rediss".to_owned(),
        ))
    }

    /// A client of the driver for a server with TLS. The files are small, and read once for each connection.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client> {
        let provider = choose_provider();
        if self.is_empty() {
            // What an application's own client of the driver brings with it stays.
            return Client::open(info)
                .map_err(|_| wrong("the driver does not take these settings".to_owned()));
        }
        let identity = self.identity.as_ref();
        let certificates = TlsCertificates {
            client_tls: identity.map(|(chain, key)| read_identity(chain, key, &provider)).transpose()?,
            root_cert: self.authority.as_deref().map(read_authority).transpose()?,
        };
        // Its words may repeat a line of a file.
        Client::build_with_tls(info, certificates)
            .map_err(|_| wrong("the driver does not take these files for TLS, or these settings".to_owned()))
    }
}

/// The driver takes the provider of the whole process, and rustls panics where there is none and it cannot tell which one is
/// meant: with none compiled in, or with two. What the application has chosen stays; otherwise it is this one.
fn choose_provider() -> Arc<CryptoProvider> {
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

/// The driver would not say which of the two is wrong, and when they do not belong together say nothing before it connects.
fn read_identity(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<ClientTlsConfig> {
    let (client_cert, client_key) = (read(certificate)?, read(key)?);
    let chain = chain(certificate, &client_cert)?;
    // Not the library's words: they may repeat a line of the file.
    let private = PrivateKeyDer::from_pem_slice(&client_key).map_err(|_| {
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
    Ok(ClientTlsConfig { client_cert, client_key })
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

/// What is wrong when TLS is why there is no connection, and what to do. None of it passes by itself.
pub(crate) fn explain(error: &RedisError) -> Option<(ErrorKind, &'static str)> {
    let source = error.source()?;
    // The driver shares it among its clones.
    let shared = source.downcast_ref::<Arc<dyn StdError + Send + Sync>>();
    let source: &(dyn StdError + 'static) = shared.map_or(source, |shared| &**shared);
    if let Some(error) = source.downcast_ref() {
        return explain_refusal(error);
    }
    if let Some(error) = source.downcast_ref::<io::Error>() {
        return explain_refusal(error.get_ref()?.downcast_ref()?);
    }
    if source.is::<InvalidDnsNameError>() {
        return Some((ErrorKind::Misconfigured, "no certificate can be for this host: it is no name"));
    }
    // Nothing else of this kind is left: it is the reader of the machine's certificates.
    (error.kind() == redis::ErrorKind::Io).then_some((
        ErrorKind::Misconfigured,
        "the machine's own certificates cannot be read, which the driver needs to even where ca_file is given: \
         SSL_CERT_FILE and SSL_CERT_DIR have to name what is there, or not to be set",
    ))
}

fn explain_refusal(error: &rustls::Error) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind::{Denied, Misconfigured};
    Some(match error {
        rustls::Error::InvalidCertificate(why) => (Denied, explain_certificate(why)),
        rustls::Error::NoCertificatesPresented => (Denied, "the server has shown no certificate"),
        rustls::Error::AlertReceived(alert) => return explain_alert(*alert),
        rustls::Error::PeerIncompatible(_) => {
            (Misconfigured, "the server's TLS is too old or has no cipher in common: it has to be 1.2 or 1.3")
        }
        rustls::Error::InvalidMessage(_) => {
            (Misconfigured, "what answers there does not speak TLS: without it, the URL begins with redis")
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
fn explain_alert(alert: AlertDescription) -> Option<(ErrorKind, &'static str)> {
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
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
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
