//! The engine: waiting, retry, renewal, loss, cancellation and release, written once for every store.
//!
//! An application's future does the work itself wherever it can: an uncontended acquire or release is one call to the
//! backend, polled in place. Whatever has to go on without it is a *job*: a future that is handed to the engine's task
//! on the runtime that was captured when the client was made. Dropping a guard or an acquire future sends a job through
//! a channel; it never spawns, blocks or panics. Each open session has one task, its *heartbeat*.

mod acquire;
mod call;
mod claims;
mod heartbeat;
mod hold;
mod jobs;
mod lease;
mod opening;
mod place;
mod race;
mod release;
mod session;
mod settings;
mod shutdown;
mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

pub(crate) use self::acquire::{Ask, Patience, Won};
pub(crate) use self::call::Caller;
pub(crate) use self::hold::Hold;
use self::jobs::Jobs;
use self::opening::Door;
use self::race::{First, race};
pub(crate) use self::session::OpenSession;
pub(crate) use self::settings::Settings;
use self::shutdown::Closing;
use crate::backend::{Backend, BackendInfo, Domain, Ticket};
use crate::clock::Clock;
use crate::error::{Error, Operation, Result};

/// One client's engine. Clients and guards own it together; when the last of them is gone it closes its sessions.
#[derive(Debug)]
pub(crate) struct Engine {
    core: Arc<Core>,
}

/// What the engine's tasks share with it. They do not own the engine, so that it can end while they run.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) info: BackendInfo,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    runtime: Handle,
    jobs: Jobs,
    closing: Closing,
    doors: Mutex<HashMap<Domain, Door>>,
    /// How many sessions are being opened or kept.
    keepers: watch::Sender<usize>,
    tickets: AtomicU64,
}

impl Engine {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        runtime: Handle,
    ) -> Arc<Engine> {
        let info = backend.info();
        let jobs = Jobs::start(&runtime);
        let core = Core {
            backend,
            info,
            clock,
            settings,
            runtime,
            jobs,
            closing: Closing::new(),
            doors: Mutex::default(),
            keepers: watch::Sender::new(0),
            tickets: AtomicU64::new(1),
        };
        Arc::new(Engine { core: Arc::new(core) })
    }

    /// Opens the session of the store's first domain.
    pub(crate) async fn open(&self) -> Result<()> {
        self.core.session(Domain::default(), false).await.map(|_| ())
    }

    /// The same, for at most this long.
    pub(crate) async fn open_within(&self, limit: Duration) -> Result<()> {
        let core = &self.core;
        match race(core.session(Domain::default(), false), core.clock.sleep(limit)).await {
            First::Left(opened) => opened.map(|_| ()),
            First::Right(()) => Err(core.hindrance(Domain::default()).unwrap_or_else(|| {
                Error::unavailable(format!(
                    "no answer within {limit:?}: is the store running, and the address right?"
                ))
                .during(Operation::Open)
            })),
        }
    }

    /// The TTL in force in that session; before it is open, the one that will be asked for.
    pub(crate) fn ttl(&self) -> Duration {
        let open = self.core.doors().get(&Domain::default()).and_then(|door| door.session().cloned());
        open.map_or(self.core.settings.ttl, |session| session.lease().ttl())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for Engine {
    /// Nobody can acquire or hold any more: sessions are closed by their own tasks.
    fn drop(&mut self) {
        self.core.closing.begin();
        self.core.jobs.finish();
    }
}

impl Core {
    fn next_ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<Domain, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
