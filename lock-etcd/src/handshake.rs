//! Why a server with TLS ends a connection behind the handshake: the driver may lose what it said.

use std::time::Duration;

use lock_core::{SystemClock, within};
use lock_tls::{TlsFiles, ask, client_config};

use crate::tls::{Refusal, refusal};

/// A client's first words in HTTP/2, with settings that change nothing: a server that lets it in answers with its own.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// For a server that is there, and has just answered once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Begins a connection as the driver does, and listens to what comes of it.
pub(crate) async fn refusal_of(endpoint: &str, host: &str, files: &TlsFiles) -> Option<Refusal> {
    // The driver would not get as far as this without them either.
    let mut config = client_config(files).ok()?;
    config.alpn_protocols.push(b"h2".to_vec());
    let asked = ask(endpoint, host, config, PREFACE);
    within(&SystemClock::new(), PATIENCE, asked).await.flatten().and_then(|error| refusal(&error))
}
