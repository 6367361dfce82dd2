//! One connection through a [`Proxy`](super::Proxy), from its acceptance to its end.
//!
//! All of it is one task, so that nothing happens to it between a look at the rules and what follows from them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::door::Door;
use super::lane::Lane;
use super::{Network, Rules, Way};

/// That a connection is to end by a reset.
pub(super) struct Reset;

/// What a client is told before anything else, where it has to be told whether its server has taken the connection.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) accepted: Vec<u8>,
    pub(crate) refused: Vec<u8>,
}

/// A connection that counts as open.
pub(super) struct Open(Arc<Network>);

impl Open {
    pub(super) fn on(network: &Arc<Network>) -> Open {
        network.open.fetch_add(1, Ordering::SeqCst);
        Open(network.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What both directions of a connection have to know.
pub(super) struct Fate {
    /// How the rules were when it began.
    pub(super) since: Rules,
    /// Something of its streams has vanished in a block.
    pub(super) has_a_hole: AtomicBool,
    /// Nothing that the server sends is to arrive any more.
    pub(super) swallows_replies: AtomicBool,
}

/// Serves a connection until it ends.
pub(super) async fn serve(open: Open, door: Arc<Door>, mut client: TcpStream, greeting: Option<Greeting>) {
    let network = &*open.0;
    let rules = network.rules.subscribe();
    let since = *rules.borrow();
    let fate = Fate { since, has_a_hole: AtomicBool::new(false), swallows_replies: AtomicBool::new(false) };
    let mut server = None;
    let ended = tokio::select! {
        biased;
        () = told_to_reset(rules.clone(), &fate) => Err(Reset),
        ended = connect_and_carry(network, &door, rules, &fate, greeting, &mut client, &mut server) => ended,
    };
    if ended.is_err() {
        reset(&client);
        server.iter().for_each(reset);
    }
    // Whoever sees that it is closed finds it counted as such.
    drop(open);
}

/// Has a connection end by a reset as soon as it is dropped.
pub(super) fn reset(stream: &TcpStream) {
    // Fails only for a connection that has ended.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn told_to_reset(mut rules: watch::Receiver<Rules>, fate: &Fate) {
    let mut heals = fate.since.heals;
    loop {
        let now = *rules.borrow_and_update();
        let is_healed = now.heals != heals;
        heals = now.heals;
        if now.resets != fate.since.resets || (is_healed && fate.has_a_hole.load(Ordering::SeqCst)) {
            return;
        }
        if rules.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

async fn connect_and_carry(
    network: &Network,
    door: &Door,
    rules: watch::Receiver<Rules>,
    fate: &Fate,
    greeting: Option<Greeting>,
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
) -> Result<(), Reset> {
    wait_for_a_way(rules.clone(), fate, client).await?;
    let connected = TcpStream::connect(door.upstream()).await;
    if let Some(greeting) = greeting {
        // A block may have begun meanwhile.
        wait_for_a_way(rules.clone(), fate, client).await?;
        let words = if connected.is_ok() { greeting.accepted } else { greeting.refused };
        client.write_all(&words).await.map_err(|_| Reset)?;
        if connected.is_err() {
            // A reset might overtake the words.
            return Ok(());
        }
    }
    let server = server.insert(connected.map_err(|_| Reset)?);
    // Fails only for a connection that has ended.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let requests = Lane::new(Way::ToServer, network, rules.clone(), fate).carry(from_client, to_server);
    let replies = Lane::new(Way::ToClient, network, rules, fate).carry(from_server, to_client);
    tokio::try_join!(requests, replies)?;
    Ok(())
}

/// While anything is blocked no connection can be made. What a client sends meanwhile must not arrive late: it may have
/// given up by then.
async fn wait_for_a_way(
    mut rules: watch::Receiver<Rules>,
    fate: &Fate,
    client: &mut TcpStream,
) -> Result<(), Reset> {
    let mut lost = [0; 4096];
    while rules.borrow_and_update().is_blocked(Way::Both) {
        tokio::select! {
            biased;
            _ = rules.changed() => {}
            read = client.read(&mut lost) => match read {
                Ok(0) | Err(_) => return Err(Reset),
                Ok(_) => fate.has_a_hole.store(true, Ordering::SeqCst),
            }
        }
    }
    if fate.has_a_hole.load(Ordering::SeqCst) { Err(Reset) } else { Ok(()) }
}
