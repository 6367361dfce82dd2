//! What the holders are told by those who wait, and what a session hears of itself.
//!
//! Whoever waits or has tried in vain writes down, beside the holder's session and under its lease, which hold is in the way. The
//! holder's engine then releases what nobody owns any more: a grant whose answer was lost, say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use etcd_client::{PutOptions, Txn, TxnOp};
use lock_core::queue::wishes;
use lock_core::{Event, LockKey, Reason, Result};

use super::Shared;
use crate::claim::is_made_at;
use crate::entry::Kind;
use crate::queue::Queue;
use crate::watch::{News, Range, Tell, Watch};

#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// The watches over the session's own key and over what others wish of it.
    heard: Mutex<Vec<Watch>>,
    tries: wishes::Tries,
}

impl Wishes {
    /// Whether this session would hear of its own end, and that somebody waits.
    pub(super) fn are_heard(&self) -> bool {
        let heard = self.heard();
        !heard.is_empty() && heard.iter().all(Watch::is_alive)
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Hears of the session's end, and of who waits. What was said while nobody heard it is said again by whoever goes on waiting;
    /// the end is found by the next renewal.
    pub(super) async fn listen(self: &Arc<Shared>) -> Result<()> {
        let line = self.link.line().await?;
        let watch = |name, tell: Tell| {
            let range = Range { name, is_prefix: false, only_gone: false };
            line.watch(range, tell)
        };
        let heard = vec![
            watch(
                self.names.session(self.id),
                self.hears(|session, news| {
                    if let News::Gone { .. } = news {
                        session.sink.send(Event::Lost(Reason::SessionEnded));
                    }
                }),
            )?,
            watch(
                self.names.wanted(self.id),
                self.hears(|session, news| {
                    if let News::Written { value } = news {
                        wishes::read(value).for_each(|claim| session.sink.send(Event::Wanted(claim)));
                    }
                }),
            )?,
        ];
        *self.wishes.heard() = heard;
        Ok(())
    }

    /// A watch does not keep the session.
    fn hears(self: &Arc<Shared>, hear: impl Fn(&Shared, News<'_>) + Send + Sync + 'static) -> Tell {
        let this = Arc::downgrade(self);
        Arc::new(move |news| {
            if let Some(this) = Weak::upgrade(&this) {
                hear(&this, news);
            }
        })
    }

    /// Tells the holders that somebody waits. Best effort: whoever waits tells it again.
    pub(super) async fn tell_holders(&self, key: &LockKey, queue: &Queue) {
        let holds = queue.entries()[..queue.holders()].iter();
        // Nobody is told of a hold with an end of its own: its engine does not know it any more.
        let known = holds.filter(|entry| matches!(entry.kind, Kind::Session | Kind::AtLeast));
        let told: Vec<TxnOp> = wishes::of_sessions(known)
            .into_iter()
            .filter_map(|(session, holds)| {
                let first = holds.first()?;
                let words = wishes::written(holds.iter().map(|hold| (key, hold.ticket)));
                let lease = PutOptions::new().with_lease(first.lease);
                let put = TxnOp::put(self.names.wanted(session), words, Some(lease));
                let stands = is_made_at(&first.name, first.revision);
                Some(TxnOp::txn(Txn::new().when(vec![stands]).and_then(vec![put])))
            })
            .collect();
        if !told.is_empty() {
            let _ = self.txn(Txn::new().and_then(told)).await;
        }
    }

    /// Who only tries tells it as well, once in a while.
    pub(super) async fn tell_holders_of_a_try(&self, key: &LockKey, queue: &Queue) {
        if self.wishes.tries.is_time(key, self.now()) {
            self.tell_holders(key, queue).await;
        }
    }
}
