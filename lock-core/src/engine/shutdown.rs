//! Ending: of one client by its application, or of an engine that nobody uses any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::race::race;
use super::release::settle;
use super::{Core, Engine};
use crate::backend::Certainty;
use crate::hold::{End, Reason};
use crate::key::LockKey;

/// Says that nobody may acquire any more, and later that sessions are to close.
#[derive(Debug)]
pub(super) struct Closing(watch::Sender<Stage>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// New acquires and waiters are refused; releases go on.
    Draining,
    /// Sessions close.
    Closed,
}

impl Closing {
    pub(super) fn new() -> Closing {
        Closing(watch::Sender::new(Stage::Open))
    }

    /// Refuses acquires from now on.
    pub(super) fn drain(&self) {
        self.0.send_if_modified(|stage| {
            std::mem::replace(stage, (*stage).max(Stage::Draining)) < Stage::Draining
        });
    }

    /// Closes sessions, too.
    pub(super) fn begin(&self) {
        self.0.send_replace(Stage::Closed);
    }

    pub(super) fn is_begun(&self) -> bool {
        *self.0.borrow() != Stage::Open
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.0.borrow() == Stage::Closed
    }

    /// Resolves when acquires are refused.
    pub(super) async fn begun(&self) {
        let _ = self.0.subscribe().wait_for(|&stage| stage >= Stage::Draining).await;
    }

    /// Resolves when sessions are to close.
    pub(super) async fn closed(&self) {
        let _ = self.0.subscribe().wait_for(|&stage| stage == Stage::Closed).await;
    }
}

impl Engine {
    /// Refuses new acquires and waiters, releases whatever is held, waits for the releases, and closes the sessions; all
    /// within this time. Returns the keys of which no release was acknowledged.
    pub(crate) async fn shutdown(&self, within: Duration) -> Vec<LockKey> {
        let core = &self.core;
        core.closing.drain();
        let mut deadline = core.clock.sleep(within);
        let left: Arc<Mutex<BTreeSet<LockKey>>> = Arc::default();
        let keys = || left.lock().unwrap_or_else(PoisonError::into_inner);
        let work = async {
            for session in core.open_sessions() {
                let holds = session.claims().holds();
                for hold in holds {
                    hold.finish(End::Lost(Reason::ShutDown));
                    hold.begin_release();
                    session.claims().leave(hold.claim().ticket);
                    keys().insert(hold.claim().key.clone());
                    let (session, left, claim) = (session.clone(), left.clone(), hold.claim().clone());
                    core.jobs.hand_over(async move {
                        let key = claim.key.clone();
                        // A session whose lease ends meanwhile forgets its claims: that is no acknowledgement.
                        if settle(session, claim, Certainty::MaybeInFlight, None).await.is_some() {
                            left.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        }
                    });
                }
            }
            core.jobs.drained().await;
        };
        race(work, &mut deadline).await;
        keys().extend(core.open_sessions().iter().flat_map(|session| session.claims().keys()));
        core.closing.begin();
        let mut keepers = core.keepers.subscribe();
        race(keepers.wait_for(|&keepers| keepers == 0), &mut deadline).await;
        let left = std::mem::take(&mut *keys());
        left.into_iter().collect()
    }
}

impl Core {
    fn open_sessions(&self) -> Vec<Arc<super::session::OpenSession>> {
        self.doors().values().filter_map(|door| door.session().cloned()).collect()
    }
}
