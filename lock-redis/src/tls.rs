//! From [`TlsFiles`] to the driver's settings, and from its errors to what is wrong.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use lock_core::{Error, ErrorKind, Result};
use lock_tls::{TlsFiles, Words, choose_provider, explain_refusal};
use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};

const WORDS: Words = Words { scheme: "redis", bad_certificate: None };

/// A client of the driver for a server with TLS. The files are read once for each connection.
pub(crate) fn client(files: &TlsFiles, info: ConnectionInfo) -> Result<Client> {
    choose_provider();
    if files.is_empty() {
        // What an application's own client of the driver brings with it stays.
        return Client::open(info).map_err(|_| wrong("the driver does not take these settings"));
    }
    let files = files.read()?;
    let certificates = TlsCertificates {
        client_tls: files
            .identity
            .map(|identity| ClientTlsConfig { client_cert: identity.certificate, client_key: identity.key }),
        root_cert: files.authority.map(|authority| authority.pem),
    };
    // Its words may repeat a line of a file.
    Client::build_with_tls(info, certificates)
        .map_err(|_| wrong("the driver does not take these files for TLS, or these settings"))
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}

/// What is wrong when TLS is why there is no connection, and what to do. None of it passes by itself.
pub(crate) fn explain(error: &RedisError) -> Option<(ErrorKind, Cow<'static, str>)> {
    let source = error.source()?;
    // The driver shares it among its clones.
    let shared = source.downcast_ref::<Arc<dyn StdError + Send + Sync>>();
    let source: &(dyn StdError + 'static) = shared.map_or(source, |shared| &**shared);
    if let Some(explained) = explain_refusal(source, &WORDS) {
        return Some(explained);
    }
    if source.is::<rustls::Error>() || source.is::<io::Error>() {
        return None;
    }
    // Nothing else of this kind is left: it is the reader of the machine's certificates.
    (error.kind() == redis::ErrorKind::Io).then_some((
        ErrorKind::Misconfigured,
        "the machine's own certificates cannot be read, which the driver needs to even where ca_file is given: \
         SSL_CERT_FILE and SSL_CERT_DIR have to name what is there, or not to be set"
            .into(),
    ))
}
