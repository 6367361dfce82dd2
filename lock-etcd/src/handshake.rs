//! Why a server with TLS ends a connection behind the handshake: the driver may lose what it said.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{SystemClock, within};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{Refusal, refusal};

/// A client's first words in HTTP/2, with settings that change nothing: a server that lets it in answers with its own.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// For a server that is there, and has just answered once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Begins a connection as the driver does, and listens to what comes of it.
pub(crate) async fn refusal_of(endpoint: &str, host: &str, config: ClientConfig) -> Option<Refusal> {
    let listening = async {
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let stream = TcpStream::connect(endpoint).await.ok()?;
        let begun = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let mut stream = match begun {
            Ok(stream) => stream,
            Err(error) => return refusal(&error),
        };
        // What the server said before it ended the connection can be read all the same.
        let _ = stream.write_all(PREFACE).await;
        let _ = stream.flush().await;
        stream.read(&mut [0]).await.err().and_then(|error| refusal(&error))
    };
    within(&SystemClock::new(), PATIENCE, listening).await.flatten()
}
