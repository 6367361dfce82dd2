//! [`TlsFiles`]: certificates and a key, and which file it is that cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};

use lock_core::{Error, ErrorKind, Result, StoreUrl};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::provider::choose_provider;

/// Files in PEM.
///
/// ```
/// use lock_tls::TlsFiles;
///
/// let files = TlsFiles { authority: Some("/etc/locks/ca.pem".into()), identity: None };
/// assert!(files.suit(true, "stores").is_ok());
/// assert!(files.suit(false, "stores").unwrap_err().message().contains("has to begin with stores"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Who vouches for servers (`ca_file`); the machine's own unless set.
    pub authority: Option<PathBuf>,
    /// The client's certificate (`cert_file`), with those that vouch for it, and its private key (`key_file`).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What was in the files, each of which can be used.
#[derive(Clone, Debug)]
pub struct InFiles {
    /// Of `ca_file`.
    pub authority: Option<Authority>,
    /// Of `cert_file` and `key_file`.
    pub identity: Option<Identity>,
}

/// Certificates of who vouches for servers, one at least.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The file as it was.
    pub pem: Vec<u8>,
    /// As rustls takes them.
    pub known: RootCertStore,
}

/// A certificate and the private key that belongs to it. Printed without the key.
#[derive(Clone)]
pub struct Identity {
    /// The file of the certificate as it was, with those that vouch for it.
    pub certificate: Vec<u8>,
    /// The file of the key as it was.
    pub key: Vec<u8>,
    /// Both, as rustls takes them.
    pub certified: CertifiedKey,
}

impl TlsFiles {
    /// Whether no file is named.
    pub fn is_empty(&self) -> bool {
        self.authority.is_none() && self.identity.is_none()
    }

    /// Takes the files that a store's URL names: `ca_file`, and `cert_file` with `key_file`.
    ///
    /// ```
    /// use lock_core::StoreUrl;
    /// use lock_tls::TlsFiles;
    ///
    /// # fn main() -> lock_core::Result<()> {
    /// let mut files = TlsFiles::default();
    /// files.take(&mut StoreUrl::parse("rediss://redis?ca_file=/etc/locks/ca.pem")?)?;
    /// assert!(files.authority.is_some() && files.identity.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for one of the latter two without the other.
    pub fn take(&mut self, url: &mut StoreUrl) -> Result<()> {
        if let Some(file) = url.take("ca_file") {
            self.authority = Some(file.into());
        }
        match (url.take("cert_file"), url.take("key_file")) {
            (Some(certificate), Some(key)) => self.identity = Some((certificate.into(), key.into())),
            (None, None) => {}
            _ => {
                let both =
                    "cert_file and key_file belong together: the client's certificate and its private key";
                return Err(wrong(both.to_owned()));
            }
        }
        Ok(())
    }

    /// Refuses files for servers without TLS: somebody believes that there is some. `scheme` is what the store's URLs begin with
    /// when they ask for it: `rediss`.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for any file, unless it is `with_tls`.
    pub fn suit(&self, with_tls: bool, scheme: &str) -> Result<()> {
        if with_tls || self.is_empty() {
            return Ok(());
        }
        Err(wrong(format!(
            "files for TLS are given, and the URL asks for none: it has to begin with {scheme}"
        )))
    }

    /// Reads the files and checks them. It [chooses the provider](choose_provider). They are small: this blocks for as long as it
    /// takes to read them.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a file that cannot be read or used. It is named, and nothing of what is in
    /// it is repeated.
    pub fn read(&self) -> Result<InFiles> {
        let provider = choose_provider();
        let identity = self.identity.as_ref();
        Ok(InFiles {
            authority: self.authority.as_deref().map(read_authority).transpose()?,
            identity: identity.map(|(chain, key)| read_identity(chain, key, &provider)).transpose()?,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A driver would take a file without any certificate, and then trust nobody.
fn read_authority(path: &Path) -> Result<Authority> {
    let pem = read(path)?;
    let mut known = RootCertStore::empty();
    for certificate in chain(path, &pem)? {
        known.add(certificate).map_err(|_| {
            wrong(format!("the file {} for TLS (ca_file) has a certificate that is none", path.display()))
        })?;
    }
    Ok(Authority { pem, known })
}

/// A driver would not say which of the two is wrong, and when they do not belong together say nothing before it connects.
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
    let certified = CertifiedKey::from_der(chain, private, provider).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        wrong(match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the private key in {key} is not that of the certificate in {certificate}")
            }
            _ => format!("{certificate} and {key} hold no certificate and private key that TLS can use"),
        })
    })?;
    Ok(Identity { certificate: public, key: secret, certified })
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
