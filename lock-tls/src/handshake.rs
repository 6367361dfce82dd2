//! [`ask`]: why a server with TLS lets nobody in, where a driver loses what it said.

use std::io;
use std::sync::Arc;

use lock_core::Result;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::files::TlsFiles;
use crate::provider::choose_provider;

/// Connects to `endpoint` as a driver would that calls it `host`, says these first words, and returns how the server ends it, if
/// it does. With TLS 1.3 a server looks at the client's certificate behind the handshake: only who goes on to listen hears what it
/// says of it.
///
/// It listens for as long as the server is silent: whoever calls it sets a bound.
///
/// # Cancel Safety
/// Dropped, the connection ends.
pub async fn ask(endpoint: &str, host: &str, config: ClientConfig, first_words: &[u8]) -> Option<io::Error> {
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let stream = TcpStream::connect(endpoint).await.ok()?;
    let mut stream = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) => return Some(error),
    };
    // What the server said before it ended the connection can be read all the same.
    let _ = stream.write_all(first_words).await;
    let _ = stream.flush().await;
    stream.read(&mut [0]).await.err()
}

/// The settings of a client that goes by these files, and otherwise by the machine's own certificates.
///
/// # Errors
/// A file cannot be used, or the process's provider knows no version of TLS that is safe.
pub fn client_config(files: &TlsFiles) -> Result<ClientConfig> {
    let files = files.read()?;
    let known = files.authority.map_or_else(machines_own, |authority| authority.known);
    let builder = ClientConfig::builder_with_provider(choose_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| lock_core::Error::unsupported("no version of TLS to speak").caused_by(error))?
        .with_root_certificates(known);
    Ok(match files.identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified)))
        }
        None => builder.with_no_client_auth(),
    })
}

fn machines_own() -> RootCertStore {
    let mut known = RootCertStore::empty();
    known.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    known
}
