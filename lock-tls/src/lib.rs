//! TLS, for backends whose servers speak it: the files that an application names, and what is wrong when a handshake fails.
//!
//! Applications have no use for it. A backend keeps [`TlsFiles`] among its options, reads them for each connection, so that they
//! may be renewed, and hands what is in them to its driver. When there is no connection, [`explain_refusal`] says what to do.
//!
//! ```
//! use lock_core::ErrorKind;
//! use lock_tls::{TlsFiles, Words, explain_refusal};
//! use rustls::{CertificateError, Error};
//!
//! let files = TlsFiles::default();
//! files.suit(false, "stores")?;
//! assert!(files.read()?.authority.is_none());
//!
//! let expired = Error::InvalidCertificate(CertificateError::Expired);
//! let (kind, advice) = explain_refusal(&expired, &Words { scheme: "store", bad_certificate: None }).unwrap();
//! assert_eq!(kind, ErrorKind::Denied);
//! assert!(advice.contains("renew it there"));
//! # Ok::<(), lock_core::Error>(())
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod files;
#[cfg(feature = "handshake")]
mod handshake;
mod provider;
mod refusal;

pub use self::files::{Authority, Identity, InFiles, TlsFiles};
#[cfg(feature = "handshake")]
pub use self::handshake::{ask, client_config};
pub use self::provider::choose_provider;
pub use self::refusal::{Words, explain_refusal};
