//! [`TlsFiles`]: certificates, and the library that checks them.

use std::path::{Path, PathBuf};

use lock_core::{Error, ErrorKind, Result};
use redis::{Client, ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

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

    /// A client of the driver for a server with TLS. The files are small, and read once for each connection.
    pub(crate) fn client(&self, info: ConnectionInfo) -> Result<Client> {
        choose_provider();
        if self.is_empty() {
            // What an application's own client of the driver brings with it stays.
            return Client::open(info)
                .map_err(|_| wrong("the driver does not take these settings".to_owned()));
        }
        let identity = self.identity.as_ref().map(|(certificate, key)| {
            Ok::<_, Error>(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        });
        let certificates = TlsCertificates {
            client_tls: identity.transpose()?,
            root_cert: self.authority.as_deref().map(read).transpose()?,
        };
        Client::build_with_tls(info, certificates).map_err(|error| {
            // Of the files, it repeats nothing.
            wrong(format!("the files for TLS are not what they should be, in PEM: {error}"))
        })
    }
}

/// The driver takes the provider of the whole process, and rustls panics where there is none and it cannot tell which one is
/// meant: with none compiled in, or with two. What the application has chosen stays; otherwise it is this one.
fn choose_provider() {
    if CryptoProvider::get_default().is_none() {
        // Somebody else was faster: theirs is as good.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        wrong(format!("the file {} for TLS cannot be read: {error}", path.display())).caused_by(error)
    })
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
