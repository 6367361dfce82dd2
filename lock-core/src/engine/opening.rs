//! The door to a domain's session: open it once for everybody who asks, keep it, and open another when it is over.

use std::sync::Arc;

use tokio::sync::watch;

use super::Core;
use super::call::Caller;
use super::heartbeat;
use super::race::{First, race};
use super::session::OpenSession;
use crate::backend::{Domain, SessionId, SessionOptions};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::hold::Reason;
use crate::telemetry;

/// A domain's door, and who keeps it.
#[derive(Debug)]
pub(super) struct Door {
    keeper: u64,
    behind: Behind,
}

#[derive(Debug)]
enum Behind {
    Opening(watch::Receiver<Progress>),
    Open(Arc<OpenSession>),
}

impl Door {
    pub(super) fn session(&self) -> Option<&Arc<OpenSession>> {
        match &self.behind {
            Behind::Open(session) => Some(session),
            Behind::Opening(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// Not open yet; why the last attempt failed, if there was one.
    Trying(Option<Error>),
    Open(Arc<OpenSession>),
    Failed(Error),
}

impl Core {
    /// The domain's session, opened if need be. With `once`, the first failed attempt is the answer; otherwise the
    /// retry policy decides how long it is tried.
    ///
    /// Opening goes on when this future is dropped: others may wait for it, and the next one will.
    pub(super) async fn session(self: &Arc<Core>, domain: Domain, once: bool) -> Result<Arc<OpenSession>> {
        let mut progress = match self.enter(domain) {
            Ok(session) => return Ok(session),
            Err(progress) => progress,
        };
        loop {
            match &*progress.borrow_and_update() {
                Progress::Open(session) => return Ok(session.clone()),
                Progress::Failed(error) => return Err(error.clone()),
                Progress::Trying(Some(error)) if once => return Err(error.clone()),
                Progress::Trying(_) => {}
            }
            if progress.changed().await.is_err() {
                // The task that was opening it is gone.
                return Err(Error::new(
                    ErrorKind::ShutDown,
                    "the runtime that the client was made on has ended, or the store panicked while it opened a session",
                ));
            }
        }
    }

    /// Why a session that is being opened is not open yet, once an attempt has failed.
    pub(super) fn hindrance(&self, domain: Domain) -> Option<Error> {
        match &self.doors().get(&domain)?.behind {
            Behind::Opening(progress) => match &*progress.borrow() {
                Progress::Trying(error) => error.clone(),
                Progress::Failed(error) => Some(error.clone()),
                Progress::Open(_) => None,
            },
            Behind::Open(_) => None,
        }
    }

    fn enter(self: &Arc<Core>, domain: Domain) -> Result<Arc<OpenSession>, watch::Receiver<Progress>> {
        let mut doors = self.doors();
        match doors.get(&domain).map(|door| &door.behind) {
            Some(Behind::Open(session)) if session.lease().over().is_none() => return Ok(session.clone()),
            Some(Behind::Opening(progress)) => return Err(progress.clone()),
            _ => {}
        }
        let (tell, progress) = watch::channel(Progress::Trying(None));
        let keeper = Keeper::new(self, domain);
        doors.insert(domain, Door { keeper: keeper.number, behind: Behind::Opening(progress.clone()) });
        // A runtime that has ended drops the keeper at once, and the keeper then asks for the doors.
        drop(doors);
        self.runtime.spawn(keeper.keep(tell));
        Err(progress)
    }
}

/// Opens a session and keeps it. However it ends, also with its runtime, it leaves no door that nobody keeps.
struct Keeper {
    core: Arc<Core>,
    domain: Domain,
    number: u64,
}

impl Keeper {
    fn new(core: &Arc<Core>, domain: Domain) -> Keeper {
        core.keepers.send_modify(|keepers| *keepers += 1);
        Keeper { core: core.clone(), domain, number: core.next_ticket().0 }
    }

    async fn keep(self, tell: watch::Sender<Progress>) {
        let opened = match race(self.core.closing.begun(), self.open(&tell)).await {
            First::Left(()) => Err(Error::new(ErrorKind::ShutDown, "the client was shut down")),
            First::Right(opened) => opened,
        };
        match opened {
            Err(error) => {
                // First the door, then the answer: whoever hears of the failure can try again at once.
                drop(self);
                tell.send_replace(Progress::Failed(error));
            }
            Ok(session) => {
                if let Some(door) = self.core.doors().get_mut(&self.domain) {
                    door.behind = Behind::Open(session.clone());
                }
                tell.send_replace(Progress::Open(session.clone()));
                drop(tell);
                heartbeat::keep(&session).await;
            }
        }
    }

    async fn open(&self, tell: &watch::Sender<Progress>) -> Result<Arc<OpenSession>> {
        let core = &self.core;
        let give_up_at = core.clock.boot() + core.settings.retry.patience();
        let mut pauses = core.settings.retry.pauses();
        loop {
            let id = SessionId::random()?;
            let session = OpenSession::new(core, id);
            let options = SessionOptions::new(id, self.domain, core.settings.ttl, core.settings.info.clone());
            // A retried open finds the session that the first one made: it lives since then, not since the last reply.
            let sent = core.clock.boot();
            loop {
                let caller = Caller::new(core, Operation::Open);
                let error = match caller.call(core.backend.open(&options, session.sink())).await {
                    Ok(opened) => {
                        session.lease().adopt(opened.ttl, opened.margin);
                        session.establish(opened.session);
                        if session.lease().acknowledge(sent) {
                            return Ok(session);
                        }
                        caller.explain(Error::session_lost(Reason::Expired))
                    }
                    Err(error) => error,
                };
                let pause = pauses.next().unwrap_or_default();
                if !error.is_retryable() || core.clock.boot() + pause >= give_up_at {
                    return Err(error);
                }
                let over = matches!(error.kind(), ErrorKind::SessionLost(_));
                tracing::debug!(target: telemetry::TARGET, %error, "opening a session again in {pause:?}");
                tell.send_replace(Progress::Trying(Some(error)));
                core.clock.sleep(pause).await;
                if over || core.clock.boot().since(sent) >= core.settings.ttl / 2 {
                    break;
                }
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut doors = self.core.doors();
        // Another keeper may have come meanwhile: a session that is over is replaced while it still closes.
        if doors.get(&self.domain).is_some_and(|door| door.keeper == self.number) {
            doors.remove(&self.domain);
        }
        drop(doors);
        self.core.keepers.send_modify(|keepers| *keepers -= 1);
    }
}
