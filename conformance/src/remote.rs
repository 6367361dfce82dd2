//! [`Remote`]: a store that is a server, and what can be done to it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{Backend, LockKey, Result, SessionId};

use crate::fixture::missing;

/// A store behind a network, of which a [`Fixture`](crate::Fixture) has one: a server, or several nodes that are one store.
///
/// Where several nodes lead, each for some of the keys, hooks that concern a leader are told for which key: as it is in the store,
/// under the [prefix](LockKey::under) of its client.
///
/// Where it is and how it is reached has to be there; every other method is a hook, as those of the fixture are: a scenario
/// whose hook is missing fails, and says which. Hooks reach the server by themselves, never through a scenario's proxy.
#[async_trait]
pub trait Remote: Send + Sync {
    // How it is reached.

    /// Where it listens, `host:port`, or a list as in a URL where that is several addresses: `host:port,host:port`. A
    /// [`Proxy`](crate::proxy::Proxy) leads there, with a door for each. If the store tells its clients of nodes, the list has
    /// these too.
    fn endpoint(&self) -> String;

    /// The store as a client sees it that connects to this address: to the endpoint's or a proxy's. It is a list if the endpoint is
    /// one, as long and in the same order, so that a node of which the client is told is reached at its door. An attempt to
    /// connect ends after [`connect_timeout`](Remote::connect_timeout).
    async fn backend_through(&self, address: &str) -> Result<Arc<dyn Backend>>;

    /// The same, connected by its first call.
    fn lazy_backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        let _ = address;
        Err(missing("lazy_backend_through"))
    }

    /// How long a client of a scenario may take to connect: [`CONNECT_TIMEOUT`], or more where several addresses share it.
    fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT
    }

    /// With how many requests that have a key's name in them one call comes at most: a claim, say, and a look behind it that does
    /// not wait for its answer.
    fn requests_of_a_call(&self) -> usize {
        1
    }

    // Its process. Of several nodes, all.

    /// Kills it as `kill -9` does, and waits until it is gone.
    async fn kill(&self) -> Result<()> {
        Err(missing("kill"))
    }

    /// Starts it again at the same address, with what it has written.
    async fn start_again(&self) -> Result<()> {
        Err(missing("start_again"))
    }

    /// Starts it again at the same address, without any data.
    async fn start_again_empty(&self) -> Result<()> {
        Err(missing("start_again_empty"))
    }

    /// Stops it as `kill -STOP` does: connections stay open, and nobody answers.
    async fn stop(&self) -> Result<()> {
        Err(missing("stop"))
    }

    /// Lets it go on.
    async fn go_on(&self) -> Result<()> {
        Err(missing("go_on"))
    }

    // What it does to its clients.

    /// It ends the connections of all its clients, those on which they are told of grants too.
    async fn disconnect(&self) -> Result<()> {
        Err(missing("disconnect"))
    }

    /// It ends this session, as an operator would.
    async fn end_session(&self, session: SessionId) -> Result<()> {
        let _ = session;
        Err(missing("end_session"))
    }

    /// It forgets what clients have prepared: scripts, statements.
    async fn forget_scripts(&self) -> Result<()> {
        Err(missing("forget_scripts"))
    }

    /// It has no room for another connection, until it is [mended](Remote::mend).
    async fn refuse_connections(&self) -> Result<()> {
        Err(missing("refuse_connections"))
    }

    /// Everything that can keep it from writing.
    fn impairments(&self) -> Vec<Impairment> {
        Vec::new()
    }

    /// Impairs it in this way, until it is mended.
    async fn impair(&self, how: &str) -> Result<()> {
        let _ = how;
        Err(missing("impair"))
    }

    /// Ends whatever impairs it.
    async fn mend(&self) -> Result<()> {
        Err(missing("mend"))
    }

    // Its other nodes.

    /// What this key's leader acknowledges from now on, no other node learns before it is lost. For stores whose other nodes may
    /// lag.
    async fn hold_back_replicas(&self, key: &LockKey) -> Result<()> {
        let _ = key;
        Err(missing("hold_back_replicas"))
    }

    /// This key's leader is lost in this way, and another node takes over. Returns once that one takes writes; clients reach it as
    /// before.
    async fn lose_leader(&self, key: &LockKey, how: Loss) -> Result<()> {
        let _ = (key, how);
        Err(missing("lose_leader"))
    }

    /// This key's leader is cut off from the other nodes, one of which takes over; clients reach that one as before. Returns the
    /// address, or the list of them, through which a client reaches the old leader, which still answers.
    async fn isolate_leader(&self, key: &LockKey) -> Result<String> {
        let _ = key;
        Err(missing("isolate_leader"))
    }

    // Who may do what.

    /// What must never be seen: passwords, tokens, the lines of private keys. Asked for when everything was to be seen.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// A client with a wrong password.
    async fn stranger(&self) -> Result<Arc<dyn Backend>> {
        Err(missing("stranger"))
    }

    /// Clients that meet an impostor each, where the store's servers show certificates. The impostors stay as long as the fixture.
    async fn impostors(&self) -> Result<Vec<Impostor>> {
        Ok(Vec::new())
    }

    /// A client whose account may do no more than the store's documentation asks for.
    async fn least_privileged(&self) -> Result<Arc<dyn Backend>> {
        Err(missing("least_privileged"))
    }

    /// A client whose account may do the same, but elsewhere: under another prefix than the other clients.
    async fn foreign(&self) -> Result<Arc<dyn Backend>> {
        Err(missing("foreign"))
    }
}

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is killed: its connections end.
    Killed,
    /// It is stopped: its connections stay open, and nobody answers.
    Stopped,
}

/// A server that is not the one that a client means, or cannot prove it.
#[derive(Clone, Debug)]
pub struct Impostor {
    /// What is wrong with its certificate: `expired`.
    pub flaw: &'static str,
    /// A client that is led to it, connected by its first call.
    pub client: Arc<dyn Backend>,
}

/// How long a client of a scenario may take to connect, unless its store [says otherwise](Remote::connect_timeout).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Something that keeps a server from writing, and what its clients are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impairment {
    /// What [`Remote::impair`] knows it by.
    pub name: &'static str,
    /// Whether it can be over by itself: whether the error is [retryable](lock_core::Error::is_retryable).
    pub passes: bool,
}

/// The addresses in a list of them.
pub(crate) fn addresses(list: &str) -> Vec<&str> {
    list.split(',').collect()
}
