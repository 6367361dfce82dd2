//! What a store that speaks TLS is held to, for the tests of such a store, which starts its servers.
//!
//! A [`TlsStore`] is the store; each step takes one, and says what was expected and what happened.
//!
//! - [`working`]: what works without TLS works the same.
//! - [`renewed`]: certificates are renewed under a client that runs.
//! - [`refused`]: whoever is not whom they claim to be is refused, and the error says why.
//! - [`files`]: what is wrong with a file is said by its name, and nothing of what is in it.

pub mod files;
mod flaws;
mod impostors;
pub mod refused;
pub mod renewed;
pub mod working;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Backend, Result, async_trait};

pub use self::flaws::{Flaw, flaws};
pub use self::impostors::Impostors;
use crate::servers::{Certificate, Tls};

/// The password of a server that has one.
pub const PASSWORD: &str = "hunter2";

/// How long a client may take to connect. Longer than in a scenario: the first handshakes of a server take their time, and none of
/// what is asked here depends on how long that is.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A store whose servers speak TLS.
#[async_trait]
pub trait TlsStore: Send + Sync {
    /// A server, which runs for as long as this is kept.
    type Server: Send + Sync;

    /// What URLs begin with that ask for no TLS: `redis`. Those that do have an `s` behind it.
    fn scheme(&self) -> &'static str;

    /// Whoever may do everything, with the [`PASSWORD`], as a URL says it: `root:hunter2`.
    fn login(&self) -> String;

    /// Starts a server, with TLS or without, with the [`PASSWORD`] or without.
    async fn start(&self, tls: Option<&Tls>, with_password: bool) -> Result<Self::Server>;

    /// `host:port`, of this machine.
    fn address(&self, server: &Self::Server) -> String;

    /// A backend that is connected, within [`CONNECT_TIMEOUT`].
    async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>>;

    /// A backend that connects at its first call.
    fn open(&self, url: &str) -> Result<Arc<dyn Backend>>;
}

/// The query of a URL that names an authority, and a client's certificate with its key.
pub fn query(authority: &Path, client: Option<&Certificate>) -> String {
    let ca_file = format!("ca_file={}", authority.display());
    match client {
        Some(client) => {
            let (certificate, key) = (client.certificate().display(), client.key().display());
            format!("{ca_file}&cert_file={certificate}&key_file={key}")
        }
        None => ca_file,
    }
}
