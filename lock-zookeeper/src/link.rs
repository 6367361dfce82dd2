//! [`Link`]: a session without locks, for whoever only looks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{ErrorKind, Result};
use tokio::sync::Mutex;
use zookeeper_client::Client;

use crate::dial::{AN_HOUR, Dial};
use crate::wire::Wire;

/// For an answer.
const LIMIT: Duration = Duration::from_secs(4);

/// A session without locks, begun by the first who looks, and again after its connection has ended.
pub(crate) struct Link {
    dial: Arc<Dial>,
    wire: Mutex<Option<Arc<Wire>>>,
}

impl Link {
    pub(crate) fn new(dial: Arc<Dial>) -> Link {
        Link { dial, wire: Mutex::new(None) }
    }

    pub(crate) fn dial(&self) -> &Arc<Dial> {
        &self.dial
    }

    /// Makes sure that a server lets this client in.
    pub(crate) async fn connect(&self) -> Result<()> {
        self.wire().await.map(drop)
    }

    /// As [`Wire::ask`].
    pub(crate) async fn ask<T, F>(&self, send: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let wire = self.wire().await?;
        let answer = wire.ask(send).await;
        // The runtime in which it was begun may have ended, which the driver does not tell.
        if answer.as_ref().is_err_and(|error| *error.kind() != ErrorKind::Denied) {
            self.wire.lock().await.take_if(|current| Arc::ptr_eq(current, &wire));
        }
        answer
    }

    async fn wire(&self) -> Result<Arc<Wire>> {
        let mut wire = self.wire.lock().await;
        match &*wire {
            Some(wire) if wire.is_connected() => Ok(wire.clone()),
            _ => {
                // Nothing lives by it, and a quarter of it is the most that a connection may take.
                let options = self.dial.options();
                let ttl = (options.tick * 20).max(options.connect_timeout.min(AN_HOUR) * 4);
                let made = Arc::new(Wire::begin(&self.dial, ttl, LIMIT).await?);
                *wire = Some(made.clone());
                Ok(made)
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:?})", self.dial)
    }
}
