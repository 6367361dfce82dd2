//! [`Sessions`]: how a session begins, also where it is asked for twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use lock_core::queue::wishes;
use lock_core::{Clock, EventSink, Opened, Result, SessionId, SessionOptions, SystemClock};
use zookeeper_client::{Client, CreateMode, Error as Driver, MultiWriteError};

use super::listening::Listeners;
use super::pulse::Pulse;
use super::{Shared, ZooKeeperSession};
use crate::dial::Dial;
use crate::entry;
use crate::failure::{failed, wrong};
use crate::names::Names;
use crate::place::Places;
use crate::wire::{Wire, delete};

/// A session for which the servers grant less than so many ticks is refused: one of them is the margin, and what is left has to
/// outlast a lost connection.
const TICKS: u32 = 4;

/// So often a session is begun again where what it lies in has gone meanwhile, or what an earlier attempt has left has not.
const ATTEMPTS: usize = 4;

/// The sessions of one backend.
///
/// The servers give a session its name, and so cannot tell who asks again after a lost reply. What was opened is known here. What
/// an attempt that was given up has left in the store was never used, and is removed.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Held while one is opened.
    open: tokio::sync::Mutex<HashMap<SessionId, Weak<Shared>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({})", self.id)
    }
}

impl Sessions {
    pub(crate) async fn open(
        &self,
        dial: &Arc<Dial>,
        names: &Names,
        options: &SessionOptions,
        sink: EventSink,
    ) -> Result<Opened> {
        let mut open = self.open.lock().await;
        open.retain(|_, session| session.strong_count() > 0);
        let session = match open.get(&options.id).and_then(Weak::upgrade) {
            Some(session) => {
                session.beat().await?;
                session
            }
            None => {
                let session = begin(dial, names, options, sink).await?;
                open.insert(options.id, Arc::downgrade(&session));
                session
            }
        };
        let ttl = session.ttl;
        Ok(Opened::new(Arc::new(ZooKeeperSession(session)), ttl).margin(dial.options().tick))
    }
}

async fn begin(
    dial: &Arc<Dial>,
    names: &Names,
    options: &SessionOptions,
    sink: EventSink,
) -> Result<Arc<Shared>> {
    let clock = SystemClock::new();
    let before = clock.boot();
    // The engine's own answer comes at its time; this one is to come before.
    let wire = Wire::begin(dial, options.ttl, options.call_timeout.mul_f64(0.9)).await?;
    let client = wire.client()?;
    let (granted, tick) = (client.session_timeout(), dial.options().tick);
    if granted < tick * TICKS {
        return Err(wrong(format!(
            "the servers grant a session {granted:?}, which is less than {TICKS} ticks of {tick:?}: ask for a longer ttl, raise their \
             maxSessionTimeout, or say their tickTime by tick= if that is not {tick:?}"
        )));
    }
    let info = entry::written_of_session(granted, &options.info);
    create(&client, dial, names, options.id, &info).await?;
    drop(client);
    let session = Arc::new(Shared {
        wire,
        dial: dial.clone(),
        names: names.clone(),
        id: options.id,
        info,
        sink,
        ttl: granted,
        clock,
        pulse: Pulse::new(before),
        places: Mutex::new(Places::new()),
        listeners: Listeners::default(),
        seen: Mutex::new(HashMap::from([(options.id, (granted, Some(options.info.clone())))])),
        tries: wishes::Tries::default(),
    });
    session.listen()?;
    Ok(session)
}

/// The session's nodes: its own, and where those who wait for it write.
async fn create(client: &Client, dial: &Dial, names: &Names, id: SessionId, info: &[u8]) -> Result<()> {
    let (own, wanted) = (names.session(id), names.wanted(id));
    let options = CreateMode::Ephemeral.with_acls(dial.acls());
    let mut last = Driver::NodeExists;
    for _ in 0..ATTEMPTS {
        let mut both = client.new_multi_writer();
        both.add_create(&own, info, &options).map_err(failed)?;
        both.add_create(&wanted, b"", &options).map_err(failed)?;
        last = match both.commit().await {
            Ok(_) => return Ok(()),
            Err(
                MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source },
            ) => source,
        };
        match last {
            Driver::NoNode => directories(client, dial, names).await?,
            Driver::NodeExists => {
                for path in [&own, &wanted] {
                    delete(client, path).await?;
                }
            }
            _ => break,
        }
    }
    Err(failed(last))
}

/// Whoever may not create some of them may find them there.
async fn directories(client: &Client, dial: &Dial, names: &Names) -> Result<()> {
    let options = CreateMode::Persistent.with_acls(dial.acls());
    for path in names.directories() {
        if client.check_stat(&path).await.map_err(failed)?.is_some() {
            continue;
        }
        match client.create(&path, b"", &options).await {
            Ok(_) | Err(Driver::NodeExists) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
