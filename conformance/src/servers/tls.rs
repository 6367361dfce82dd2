//! [`Tls`]: a server that speaks TLS, and asks its clients for certificates or does not.

use std::path::PathBuf;

use super::certificates::{Authority, Certificate};

/// How a server speaks TLS: on its port, with its clients and with other servers. Without more, clients need no
/// certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) authority: PathBuf,
    pub(super) certificate: Certificate,
    pub(super) clients: ClientCertificates,
}

/// Whether clients have to show a certificate that the server's authority has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for one.
    Unasked,
    /// They may; one that they show has to be good.
    Optional,
    /// They have to.
    Required,
}

impl Tls {
    /// A server with this certificate. It goes by this authority for the certificates of others.
    pub fn new(authority: &Authority, certificate: Certificate) -> Tls {
        let authority = authority.certificate().to_owned();
        Tls { authority, certificate, clients: ClientCertificates::Unasked }
    }

    /// What it asks its clients for.
    #[must_use]
    pub fn client_certificates(mut self, clients: ClientCertificates) -> Tls {
        self.clients = clients;
        self
    }
}

impl ClientCertificates {
    /// As Redis calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            ClientCertificates::Unasked => "no",
            ClientCertificates::Optional => "optional",
            ClientCertificates::Required => "yes",
        }
    }
}
