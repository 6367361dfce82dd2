//! [`Wire`]: one session with the servers, and a bound for whatever is asked in it.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{BootTime, Clock, Effect, Error, ErrorKind, Reason, Result, SystemClock, within};
use zookeeper_client::{Client, Error as Driver, SessionState, StateWatcher, TlsDynamicCerts};

use crate::dial::Dial;
use crate::failure::failed;

/// One session with the servers. The driver keeps it through one connection after the other, for as long as the servers do.
///
/// What is asked while there is no connection the driver keeps and sends with the next one, whoever has given it up meanwhile; and
/// it answers nothing until then. So nothing is sent unless there is a connection, and each answer has its time.
pub(crate) struct Wire {
    dial: Arc<Dial>,
    client: Mutex<Option<Client>>,
    certificates: Option<TlsDynamicCerts>,
    states: StateWatcher,
    limit: Duration,
    heard: Mutex<Heard>,
}

/// When its server has heard of this client, as far as is known here: by requests that have been answered.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// It had heard of it by then, and since then there has been no silence of half a tick.
    since: BootTime,
    /// When the last request was sent that has been answered.
    last: BootTime,
}

impl Wire {
    /// Begins one that is to live for so long, if the servers agree, for calls that are to be answered within this limit.
    pub(crate) async fn begin(dial: &Arc<Dial>, ttl: Duration, limit: Duration) -> Result<Wire> {
        let begun = SystemClock::new().boot();
        let (client, certificates) = dial.client(ttl).await?;
        let states = client.state_watcher();
        let (client, heard) = (Mutex::new(Some(client)), Mutex::new(Heard { since: begun, last: begun }));
        Ok(Wire { dial: dial.clone(), client, certificates, states, limit, heard })
    }

    /// What is sent is sent by `send` itself, before it returns the answer's future: so that several requests that it makes go out
    /// in this order, and nothing of this session in between.
    ///
    /// # Errors
    /// What the driver says; that there has been no connection, or none that answers, for so long.
    pub(crate) async fn ask<T, F>(&self, send: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let clock = SystemClock::new();
        let mut sent = false;
        let asking = async {
            is_connected(&mut self.states.clone()).await?;
            let client = self.client()?;
            sent = true;
            let sent_at = clock.boot();
            let answer = send(client).await?;
            self.heard().again(sent_at, clock.boot(), self.dial.options().tick);
            Ok(answer)
        };
        match within(&clock, self.limit, asking).await {
            Some(answer) => answer,
            None => Err(self.silence(sent)),
        }
    }

    /// For how long the server may not have heard of this client, as far as is known here.
    pub(crate) fn silent_for(&self) -> Duration {
        SystemClock::new().boot().since(self.heard().last)
    }

    /// Whether the leader has heard of this client, by its server, about half a tick ago at most.
    pub(crate) fn is_known_to_the_leader(&self) -> bool {
        self.heard().is_told(SystemClock::new().boot(), self.dial.options().tick)
    }

    /// Within this time a server has told the leader of whom it has heard, or cannot reach it.
    pub(crate) fn told_within(&self) -> Duration {
        told_within(self.dial.options().tick)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver's client, whether it is connected or not.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        client.ok_or_else(|| Error::session_lost(Reason::SessionEnded))
    }

    pub(crate) fn states(&self) -> StateWatcher {
        self.states.clone()
    }

    /// There is no connection: the next one is made with the certificates that there are by then.
    pub(crate) fn renew_certificates(&self) {
        if let Some(current) = &self.certificates {
            self.dial.renew(current);
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.states.peek_state() == SessionState::SyncConnected
    }

    /// Ends the session: what has been asked is still answered, and nothing more is.
    pub(crate) fn give_up(&self) {
        drop(self.client.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends it, and waits until the servers know, or it has ended anyway.
    pub(crate) async fn close(&self) {
        self.give_up();
        let mut states = self.states.clone();
        while !states.peek_state().is_terminated() {
            states.changed().await;
        }
    }

    /// Nobody has answered in time.
    fn silence(&self, sent: bool) -> Error {
        let limit = self.limit;
        if self.states.peek_state() == SessionState::SyncConnected {
            return Error::new(
                ErrorKind::TimedOut,
                format!(
                    "connected, and no answer within {limit:?}: the server may be cut off from the others, or they have no quorum or \
                     too much to do (srvr and mntr say so)"
                ),
            )
            .effect(Effect::Unknown);
        }
        let suspended = Error::unavailable(format!(
            "the connection is suspended: for {limit:?} no server has let this session in; are they up, have they a quorum, and can \
             they be reached from here?"
        ));
        suspended.effect(if sent { Effect::Unknown } else { Effect::NotApplied })
    }
}

impl Heard {
    /// By a request that was sent and has been answered at these instants: the server has heard it somewhere between them.
    fn again(&mut self, sent_at: BootTime, answered_at: BootTime, tick: Duration) {
        if answered_at.since(self.last) > tick / 2 {
            self.since = answered_at;
        }
        self.last = self.last.max(sent_at);
    }

    fn is_told(&self, now: BootTime, tick: Duration) -> bool {
        now.since(self.last) <= tick / 2 && now.since(self.since) >= told_within(tick)
    }
}

/// A server tells the leader once in half a tick, and a little later when it has much to do.
fn told_within(tick: Duration) -> Duration {
    tick * 5 / 8
}

/// Waits for a connection.
///
/// # Errors
/// There will be none.
pub(crate) async fn is_connected(states: &mut StateWatcher) -> Result<()> {
    loop {
        match states.peek_state() {
            SessionState::SyncConnected => return Ok(()),
            SessionState::AuthFailed => return Err(failed(Driver::AuthFailed)),
            state if state.is_terminated() => return Err(Error::session_lost(Reason::SessionEnded)),
            _ => states.changed().await,
        };
    }
}

/// Deletes a node, and is content where there is none. Whether it was there.
///
/// It may be repeated for a claim, as no other one ever has its name. A session's own nodes may be made again by the session that is
/// opened next: a copy of this that comes so late ends that one.
pub(crate) async fn delete(client: &Client, path: &str) -> Result<bool> {
    match client.delete(path, None).await {
        Ok(()) => Ok(true),
        Err(Driver::NoNode) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.states.peek_state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_knows_of_whom_has_been_heard_again_and_again() {
        let (tick, at) = (Duration::from_millis(800), |millis: u64| BootTime::from_nanos(millis * 1_000_000));
        let mut heard = Heard { since: at(1_000), last: at(1_000) };
        assert!(!heard.is_told(at(1_100), tick), "its server may not have told yet");
        heard.again(at(1_300), at(1_310), tick);
        assert!(!heard.is_told(at(1_499), tick) && heard.is_told(at(1_500), tick));
        assert!(!heard.is_told(at(1_701), tick), "it has been silent for too long");
        // After a silence it begins anew, however much is said then: with the first answer, as the server may have heard that late.
        heard.again(at(4_000), at(4_300), tick);
        heard.again(at(4_350), at(4_360), tick);
        assert!(!heard.is_told(at(4_700), tick));
        heard.again(at(4_600), at(4_610), tick);
        assert!(!heard.is_told(at(4_799), tick) && heard.is_told(at(4_800), tick));
        // What is sent often and arrives at once at the end was a silence as well.
        heard.again(at(4_900), at(6_000), tick);
        heard.again(at(5_200), at(6_001), tick);
        heard.again(at(5_990), at(6_002), tick);
        assert!(!heard.is_told(at(6_100), tick));
    }
}
