//! The door to a domain's session: open it once for everybody who asks, keep it, and open another when it is over.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

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
    Opening(Opening),
    Open(Arc<OpenSession>),
}

/// A session that is being opened.
#[derive(Clone, Debug)]
struct Opening {
    progress: watch::Receiver<Progress>,
    /// Ends the pause between two attempts.
    hurry: Arc<Notify>,
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
    /// Not open yet; how many attempts have failed, and why the last one did.
    Trying(u64, Option<Error>),
    Open(Arc<OpenSession>),
    Failed(Error),
}

impl Core {
    /// The domain's session, opened if need be. With `once`, the next attempt's failure is the answer; otherwise the retry
    /// policy decides how long it is tried.
    ///
    /// Opening goes on when this future is dropped: others may wait for it, and the next one will.
    pub(super) async fn session(self: &Arc<Core>, domain: Domain, once: bool) -> Result<Arc<OpenSession>> {
        let Opening { mut progress, hurry } = match self.enter(domain) {
            Ok(session) => return Ok(session),
            Err(opening) => opening,
        };
        let mut before = None;
        loop {
            match &*progress.borrow_and_update() {
                Progress::Open(session) => return Ok(session.clone()),
                Progress::Failed(error) => return Err(error.clone()),
                Progress::Trying(failed, error) if once => match (before, error) {
                    (Some(before), Some(error)) if *failed > before => return Err(error.clone()),
                    // What failed before this call was no attempt of its own, and the pause after it is somebody else's.
                    _ => {
                        before.get_or_insert(*failed);
                        hurry.notify_one();
                    }
                },
                Progress::Trying(..) => {}
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
            Behind::Opening(opening) => match &*opening.progress.borrow() {
                Progress::Trying(_, error) => error.clone(),
                Progress::Failed(error) => Some(error.clone()),
                Progress::Open(_) => None,
            },
            Behind::Open(_) => None,
        }
    }

    fn enter(self: &Arc<Core>, domain: Domain) -> Result<Arc<OpenSession>, Opening> {
        let mut doors = self.doors();
        match doors.get(&domain).map(|door| &door.behind) {
            Some(Behind::Open(session)) if session.lease().over().is_none() => return Ok(session.clone()),
            Some(Behind::Opening(opening)) => return Err(opening.clone()),
            _ => {}
        }
        let (tell, progress) = watch::channel(Progress::Trying(0, None));
        let opening = Opening { progress, hurry: Arc::default() };
        let keeper = Keeper::new(self, domain, opening.hurry.clone());
        doors.insert(domain, Door { keeper: keeper.number, behind: Behind::Opening(opening.clone()) });
        // A runtime that has ended drops the keeper at once, and the keeper then asks for the doors.
        drop(doors);
        self.runtime.spawn(keeper.keep(tell));
        Err(opening)
    }
}

/// Opens a session and keeps it. However it ends, also with its runtime, it leaves no door that nobody keeps.
struct Keeper {
    core: Arc<Core>,
    domain: Domain,
    number: u64,
    hurry: Arc<Notify>,
}

impl Keeper {
    fn new(core: &Arc<Core>, domain: Domain, hurry: Arc<Notify>) -> Keeper {
        core.keepers.send_modify(|keepers| *keepers += 1);
        Keeper { core: core.clone(), domain, number: core.next_ticket().0, hurry }
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
        let mut failed = 0;
        loop {
            let id = SessionId::random()?;
            let session = OpenSession::new(core, id);
            let settings = &core.settings;
            let options = SessionOptions::new(id, self.domain, settings.ttl, settings.info.clone())
                .call_timeout(settings.call_timeout);
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
                        // Its answer came after its end, here. For the store it may live on.
                        core.jobs.hand_over(heartbeat::close(session.clone()));
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
                failed += 1;
                tell.send_replace(Progress::Trying(failed, Some(error)));
                race(core.clock.sleep(pause), self.hurry.notified()).await;
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
