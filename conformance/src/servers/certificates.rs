//! [`Authority`]: certificates for servers and clients that speak TLS, good ones and bad ones.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lock_core::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// What a server's certificate says when nothing else is asked for: how a test reaches it.
const HERE: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Who signs certificates. Everything is PEM in files of a directory, which goes with the authority and all of its
/// certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    directory: Arc<TempDir>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    /// The files are in it.
    _directory: Arc<TempDir>,
}

impl Authority {
    /// An authority that nobody knows who has not been given its [certificate](Authority::certificate).
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new() -> Result<Authority> {
        let directory = tempfile::Builder::new()
            .prefix("certificates-")
            .tempdir()
            .map_err(|error| Error::unavailable("no directory for certificates").caused_by(error))?;
        let key = KeyPair::generate().map_err(unsigned)?;
        let mut params = named("a test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let signed = params.self_signed(&key).map_err(unsigned)?;
        let certificate = directory.path().join("authority.crt");
        write(&certificate, &signed.pem())?;
        Ok(Authority { issuer: Issuer::new(params, key), certificate, directory: Arc::new(directory) })
    }

    /// Its own certificate, by which the others are checked.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// A server's, for `127.0.0.1`, `::1` and `localhost`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn server(&self) -> Result<Certificate> {
        self.server_named(HERE)
    }

    /// A server's, for these names and addresses only.
    ///
    /// # Errors
    /// Something is no name, or the files cannot be written.
    pub fn server_named<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Certificate> {
        self.issue(server(names)?)
    }

    /// A server's, for `127.0.0.1`, `::1` and `localhost`, which expired long ago.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn expired_server(&self) -> Result<Certificate> {
        self.issue(expired(server(HERE)?))
    }

    /// The certificate of a client with this name.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client(&self, name: &str) -> Result<Certificate> {
        self.issue(client(name))
    }

    /// The certificate of a client with this name, which expired long ago.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn expired_client(&self, name: &str) -> Result<Certificate> {
        self.issue(expired(client(name)))
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Certificate> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(unsigned)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(unsigned)?;
        let number = fastrand::u128(..);
        let file = |ending| self.directory.path().join(format!("{number:032x}.{ending}"));
        let certificate = Certificate {
            certificate: file("crt"),
            key: file("key"),
            _directory: Arc::clone(&self.directory),
        };
        write(&certificate.certificate, &signed.pem())?;
        write(&certificate.key, &key.serialize_pem())?;
        Ok(certificate)
    }
}

impl Certificate {
    /// The file of the certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The file of its private key.
    pub fn key(&self) -> &Path {
        &self.key
    }
}

/// It is for a client too: servers call each other.
fn server<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<CertificateParams> {
    let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
    let mut params = CertificateParams::new(names).map_err(unsigned)?;
    params.distinguished_name = named("a test's server").distinguished_name;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn client(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    params
}

/// All of them as a key is written: for this user alone.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::unavailable("a certificate cannot be written").caused_by(error))
}

fn unsigned(error: rcgen::Error) -> Error {
    Error::invalid("no certificate can be made of this").caused_by(error)
}
