//! Two libraries for TLS are compiled in, and the application has chosen none: rustls would panic.

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // It would not compile without one of them.
    let _both = (aws_lc_rs::default_provider(), ring::default_provider());
    assert!(CryptoProvider::get_default().is_none());
    fencepost_tls::take_a_lock().await?;
    assert!(CryptoProvider::get_default().is_some());
    Ok(())
}
