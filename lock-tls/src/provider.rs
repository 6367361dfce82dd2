//! [`choose_provider`]: the library that does the arithmetic of TLS.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The provider of the whole process: the one that the application has chosen, and otherwise aws-lc, which is chosen by this.
///
/// A driver that takes the process's is to find one: where none is chosen it would take whichever was compiled in first, or
/// rustls would panic, because there is none or because it cannot tell which of two is meant.
pub fn choose_provider() -> Arc<CryptoProvider> {
    if CryptoProvider::get_default().is_none() {
        // Somebody else was faster: theirs is as good.
        let _ = aws_lc_rs::default_provider().install_default();
    }
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}
