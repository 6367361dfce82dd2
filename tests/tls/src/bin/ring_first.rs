//! Two libraries for TLS are compiled in, and the application has chosen the one that fencepost would not: it stays, and is used.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, ring};

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Ring's, which can tell whether it was asked.
#[derive(Debug)]
struct Counted;

impl SecureRandom for Counted {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        ring::default_provider().secure_random.fill(bytes)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chosen = CryptoProvider { secure_random: &Counted, ..ring::default_provider() };
    chosen.install_default().map_err(|_| "somebody was faster")?;
    fencepost_tls::take_a_lock().await?;
    assert!(ASKED.load(Ordering::Relaxed) > 0, "another one was used");
    Ok(())
}
