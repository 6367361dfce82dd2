//! [`Pulse`]: the version of the session's own node, by which late copies of a claim are known.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lock_core::BootTime;

/// The version that the session's own node will have, for whatever is sent next.
///
/// Invariant: every claim is made only at the version that was expected when it was sent. Each renewal writes to the node and so
/// raises it. Once it is above all that claims were sent with, none of these can take effect any more: not even what a connection
/// that was given up carries to the servers late.
///
/// Requests of one connection take effect in the order in which they are sent; so a version may be expected of renewals that have
/// not been answered yet. An expectation that comes to nothing costs another renewal.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    expected: Option<i32>,
    /// The highest that a claim was sent with: an expectation may have been too high, where a renewal was lost that it reckoned with.
    highest: i32,
    /// How many renewals have been sent.
    sent: u64,
    /// When the last one that was acknowledged was sent, or the session asked for.
    renewed: BootTime,
}

impl Pulse {
    /// Of a session that was asked for at this instant, and whose node has just been made.
    pub(super) fn new(asked_for: BootTime) -> Pulse {
        Pulse(Mutex::new(State { expected: Some(0), highest: -1, sent: 0, renewed: asked_for }))
    }

    /// Held while what is sent by it is handed to the driver, and not while it is answered.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the node's version will be for the claim that is sent next, if that can be told.
    pub(super) fn expected(&mut self) -> Option<i32> {
        self.highest = self.highest.max(self.expected?);
        self.expected
    }

    /// Above this version no claim can take effect that was sent by now.
    pub(super) fn highest(&self) -> i32 {
        self.highest
    }

    /// A renewal goes out. Returns its number.
    pub(super) fn beat(&mut self) -> u64 {
        self.sent += 1;
        self.expected = self.expected.map(|version| version.wrapping_add(1));
        self.sent
    }

    /// When the last renewal that was acknowledged was sent.
    pub(super) fn renewed(&self) -> BootTime {
        self.renewed
    }

    /// The renewal of this number, sent at this instant, has made it this version.
    pub(super) fn was_acknowledged(&mut self, number: u64, version: i32, sent_at: BootTime) {
        self.renewed = self.renewed.max(sent_at);
        let later = i32::try_from(self.sent - number).unwrap_or_default();
        self.expected = Some(version.wrapping_add(later));
    }

    /// What is to be expected is not known any more.
    pub(super) fn is_lost(&mut self) {
        self.expected = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_renewals_are_reckoned_with() {
        let at = BootTime::from_nanos;
        let pulse = Pulse::new(at(1));
        let mut state = pulse.lock();
        assert_eq!(state.expected(), Some(0), "as any node that has just been made");
        let (first, second) = (state.beat(), state.beat());
        state.was_acknowledged(first, 7, at(5));
        assert_eq!(state.expected(), Some(8));
        state.was_acknowledged(second, 8, at(4));
        assert_eq!((state.expected(), state.renewed()), (Some(8), at(5)));
        state.beat();
        assert_eq!((state.expected(), state.highest()), (Some(9), 9));
        state.is_lost();
        assert_eq!((state.beat(), state.expected()), (4, None));
    }
}
