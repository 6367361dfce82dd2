//! [`Waiting`]: a claim that waits, and what it is told.

use std::task::Waker;
use std::time::Duration;

use crate::backend::Proof;
use crate::hold::Reason;
use crate::key::LockKey;
use crate::token::FencingToken;

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) key: LockKey,
    /// The store has answered that it is in the queue: only then does a renewal that does not know it mean anything.
    pub(super) queued: bool,
    /// Somebody waits behind it already: news that came before its future has looked at the grant.
    pub(super) wanted: bool,
    pub(super) news: Option<News>,
    pub(super) waker: Option<Waker>,
}

/// What a waiting claim is told.
#[derive(Debug)]
pub(super) enum News {
    Granted {
        token: FencingToken,
        proof: Proof,
    },
    Recheck,
    RecheckIn(Duration),
    Gone,
    /// It was granted and its grant ended by force, or it was removed from the queue.
    Revoked(Reason),
    Over(Reason),
}

impl Waiting {
    pub(super) fn new(key: LockKey) -> Waiting {
        Waiting { key, queued: false, wanted: false, news: None, waker: None }
    }

    /// Two different grants for one ticket: the store contradicts itself, so that neither is to be relied on.
    pub(super) fn granted(&mut self, token: FencingToken, proof: Proof) {
        match &self.news {
            Some(News::Granted { token: known, .. }) if *known != token => {
                self.tell(News::Revoked(Reason::Forgotten));
            }
            _ => self.tell(News::Granted { token, proof }),
        }
    }

    /// A grant beats everything but its own end, and is never overwritten by what was sent before it.
    pub(super) fn tell(&mut self, news: News) {
        let stronger = |news: &News| match news {
            News::Revoked(_) => 4,
            News::Granted { .. } => 3,
            News::Gone | News::Over(_) => 2,
            News::Recheck => 1,
            News::RecheckIn(_) => 0,
        };
        if self.news.as_ref().is_none_or(|known| stronger(known) <= stronger(&news)) {
            self.news = Some(news);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
