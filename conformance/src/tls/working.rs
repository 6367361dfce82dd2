//! What works without TLS works the same, and certificates are renewed under a client that runs.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Backend, Clock, Guard, HoldState, LockClient, SystemClock};
use tokio::task::JoinSet;

use super::{TlsStore, query};
use crate::proxy::Proxy;
use crate::servers::{Authority, Certificate, ClientCertificates, Tls};
use crate::verdict::{Failure, Verdict, expect};

const TTL: Duration = Duration::from_secs(2);

/// A server that asks clients for certificates, and what a client needs.
#[derive(Debug)]
pub struct Asking<Server> {
    /// Who has signed everything.
    pub authority: Authority,
    /// A client's.
    pub client: Certificate,
    /// It has no password.
    pub server: Server,
}

impl<Server> Asking<Server> {
    /// Starts it.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn start<S: TlsStore<Server = Server>>(store: &S) -> Verdict<Asking<Server>> {
        let authority = Authority::new()?;
        let tls = Tls::new(&authority, authority.server()?).client_certificates(ClientCertificates::Required);
        let server = store.start(Some(&tls), false).await?;
        Ok(Asking { client: authority.client("locks")?, authority, server })
    }

    /// The query of a URL.
    pub fn query(&self) -> String {
        query(self.authority.certificate(), Some(&self.client))
    }
}

/// A lock is taken and given back.
///
/// # Errors
/// Why it is not.
pub async fn takes_a_lock(backend: Arc<dyn Backend>) -> lock_core::Result<()> {
    let client = LockClient::builder(backend).build()?;
    client.mutex("k")?.acquire().await?.release().await.map(|_| ())
}

/// Whoever knows the authority of the server needs nothing else: by address, by name, and with another authority in the same file.
///
/// # Errors
/// What has failed.
pub async fn with_the_authority_alone<S: TlsStore>(store: &S) -> Verdict {
    let authority = Authority::new()?;
    let server = store.start(Some(&Tls::new(&authority, authority.server()?)), false).await?;
    // Two of them in one file: as it is while the old one gives way to a new one.
    let both = tempfile::NamedTempFile::new()?;
    let pem = |authority: &Authority| std::fs::read_to_string(authority.certificate());
    std::fs::write(both.path(), pem(&Authority::new()?)? + &pem(&authority)?)?;
    let address = store.address(&server);
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    for (host, known) in [
        ("127.0.0.1", authority.certificate()),
        ("localhost", authority.certificate()),
        ("127.0.0.1", both.path()),
    ] {
        let url = format!("{}s://{host}:{port}?{}", store.scheme(), query(known, None));
        takes_a_lock(store.connect(&url).await?).await?;
    }
    Ok(())
}

/// A waiter is woken and a hold renewed, and both survive a connection that is reset.
///
/// # Errors
/// What has failed.
pub async fn through_resets<S: TlsStore>(store: &S) -> Verdict {
    let asking = Asking::start(store).await?;
    let proxy = Proxy::to(store.address(&asking.server)).await?;
    let url = format!("{}s://{}?{}", store.scheme(), proxy.address(), asking.query());
    let client = || LockClient::builder(store.open(&url)?).ttl(TTL).build();
    let (holder, waiter, clock) = (client()?, client()?, SystemClock::new());
    let held = holder.mutex("k")?.acquire().await?;
    let lock = waiter.mutex("k")?;
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    while holder.inspect("k").await?.queue.is_empty() {
        clock.sleep(TTL / 500).await;
    }
    for _ in 0..2 {
        proxy.reset_all();
        is_renewed(&held, TTL * 2).await?;
    }
    let released = clock.boot();
    held.release().await?;
    let joined = waiting.join_next().await.ok_or_else(|| Failure::new("a waiter", "none"))?;
    let next = joined.map_err(|error| Failure::new("no panic", error))??;
    let took = clock.boot().since(released);
    expect(took < TTL / 2, "to be woken", format_args!("a grant after {took:?}"))?;
    next.release().await?;
    Ok(())
}

/// It is held for so long, which is longer than it lasts unless it is renewed.
///
/// # Errors
/// It was not.
pub async fn is_renewed(held: &Guard, time: Duration) -> Verdict {
    let clock = SystemClock::new();
    let end = clock.boot() + time;
    while clock.boot() < end {
        let state = held.state();
        expect(!matches!(state, HoldState::Ended(_)), "a hold that is renewed", format_args!("{state:?}"))?;
        clock.sleep(TTL / 20).await;
    }
    Ok(())
}
