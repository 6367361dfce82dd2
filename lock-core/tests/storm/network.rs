//! What is on its way: deliveries that happen at an instant of the virtual clock, whoever still waits for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::BootTime;

type Delivery = Box<dyn FnOnce() + Send>;

/// A network whose messages outlive their senders, as real ones do.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<Pending>>);

#[derive(Default)]
struct Pending {
    deliveries: BTreeMap<(BootTime, u64), Delivery>,
    sent: u64,
}

impl Network {
    pub(crate) fn deliver_at(&self, at: BootTime, delivery: impl FnOnce() + Send + 'static) {
        let mut pending = self.pending();
        pending.sent += 1;
        let slot = (at, pending.sent);
        pending.deliveries.insert(slot, Box::new(delivery));
    }

    /// Delivers whatever is due. `false` when nothing was.
    pub(crate) fn deliver(&self, now: BootTime) -> bool {
        let mut any = false;
        loop {
            let delivery = {
                let mut pending = self.pending();
                match pending.deliveries.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => return any,
                }
            };
            // Outside the lock: it may send.
            delivery();
            any = true;
        }
    }

    pub(crate) fn next(&self) -> Option<BootTime> {
        self.pending().deliveries.keys().next().map(|&(at, _)| at)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
