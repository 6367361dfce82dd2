//! [`Door`]: one address at which a [`Proxy`](super::Proxy) listens, and where it leads.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use lock_core::{Clock, Error, Result, SystemClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::{self, Open};
use super::{Network, Rules};
use crate::remote::addresses;

/// One address of a proxy. All else is the same for each of its doors.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    upstream: Mutex<String>,
}

/// Doors at which somebody can be let in.
pub(super) type Listeners = Vec<(TcpListener, Arc<Door>)>;

impl Door {
    /// One for each of these servers, on a free port of 127.0.0.1.
    pub(super) async fn to_each(upstreams: &str) -> Result<Listeners> {
        let failed = |error| Error::unavailable("no port for a proxy").caused_by(error);
        let mut listeners = Listeners::new();
        for upstream in addresses(upstreams) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            listeners.push((listener, Arc::new(Door { address, upstream: Mutex::new(upstream.to_owned()) })));
        }
        Ok(listeners)
    }

    pub(super) fn upstream(&self) -> String {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever comes from now on is led there.
    pub(super) fn lead_to(&self, upstream: &str) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream.to_owned();
    }
}

/// Accepts at every door until the proxy is closed. The connections' tasks are its own: they end with it.
pub(super) async fn listen(doors: Listeners, network: Arc<Network>) {
    let mut tasks = JoinSet::new();
    let mut rules = network.rules.subscribe();
    loop {
        tokio::select! {
            biased;
            () = closed(&mut rules) => break,
            Some(_) = tasks.join_next() => {}
            (accepted, door) = accept(&doors) => match accepted {
                Ok(client) => {
                    if let Some(open) = welcome(&network, &client) {
                        tasks.spawn(connection::serve(open, door.clone(), client, None));
                    }
                }
                // The client may be gone already, or this process has too many files open.
                Err(_) => SystemClock::new().sleep(Duration::from_millis(10)).await,
            }
        }
    }
    drop(doors);
    tasks.shutdown().await;
}

async fn closed(rules: &mut watch::Receiver<Rules>) {
    // Fails when nobody is left to close it, which has the same meaning.
    let _ = rules.wait_for(|rules| rules.closed).await;
}

/// Whoever comes first, and to which door.
async fn accept(doors: &Listeners) -> (std::io::Result<TcpStream>, &Arc<Door>) {
    poll_fn(|context| {
        for (listener, door) in doors {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready((accepted.map(|(client, _)| client), door));
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether a client is let in. One that is not is reset when it is dropped.
pub(super) fn welcome(network: &Arc<Network>, client: &TcpStream) -> Option<Open> {
    if network.rules.borrow().refuse {
        network.counts.refused.fetch_add(1, Ordering::SeqCst);
        connection::reset(client);
        return None;
    }
    network.counts.connections.fetch_add(1, Ordering::SeqCst);
    Some(Open::on(network))
}
