//! What a session is told: that what is in a claim's way has gone, that somebody waits, and how it stands with the servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use lock_core::queue::wishes;
use lock_core::{Clock, Error, ErrorKind, Event, Reason, Result, Ticket};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};
use zookeeper_client::{Error as Driver, EventType, OneshotWatcher, SessionState, StateWatcher};

use super::Shared;
use crate::entry::{self, Queue};
use crate::failure::failed;
use crate::place::{Stands, Then, Watch, Watched};
use crate::wire::is_connected;

/// While there is no connection, the files for TLS are read once in so long; and so long is what cannot be read left alone.
const DISCONNECTED: Duration = Duration::from_millis(500);

/// The task in which a session listens. It ends with the session.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Option<Task>>);

#[derive(Debug)]
struct Task {
    orders: UnboundedSender<Order>,
    handle: AbortHandle,
}

#[derive(Debug)]
enum Order {
    /// Until it fires, or another one takes its place.
    Watch {
        ticket: Ticket,
        watched: Watched,
        watcher: OneshotWatcher,
    },
    Forget {
        ticket: Ticket,
    },
}

impl Listeners {
    fn order(&self, order: Order) {
        if let Some(task) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = task.orders.send(order);
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.handle.abort();
        }
    }
}

impl Shared {
    /// # Errors
    /// Outside a Tokio runtime.
    pub(super) fn listen(self: &Arc<Shared>) -> Result<()> {
        let runtime = Handle::try_current().map_err(|_| {
            Error::new(ErrorKind::Misconfigured, "locks in ZooKeeper are used inside a Tokio runtime")
        })?;
        let (orders, given) = unbounded_channel();
        let handle = runtime.spawn(serve(Arc::downgrade(self), self.wire.states(), given)).abort_handle();
        *self.listeners.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Task { orders, handle });
        Ok(())
    }

    /// Has the claim told when the node of another one goes, and what that means for it. Whether it was there.
    pub(super) async fn watch_node(&self, ticket: Ticket, path: &str, then: Then) -> Result<bool> {
        // A look at whether it is there would leave a watch for its coming, which is never.
        let watching = self.wire.ask(|client| async move {
            match client.get_and_watch_data(path).await {
                Ok((_, _, watcher)) => Ok(Some(watcher)),
                Err(Driver::NoNode) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        });
        let Some(watcher) = watching.await? else {
            self.of(ticket, |place| place.about_to_watch = 0);
            return Ok(false);
        };
        self.is_watched(ticket, Watch { watched: Watched::Node(path.to_owned()), then }, watcher);
        Ok(true)
    }

    /// Has the claim told when any of the lock's claims comes or goes. Returns them.
    pub(super) async fn watch_all(&self, ticket: Ticket, lock: &str) -> Result<Queue> {
        let watching = self.wire.ask(|client| async move {
            match client.list_and_watch_children(lock).await {
                Ok(found) => Ok(Some(found)),
                Err(Driver::NoNode) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        });
        let Some((names, watcher)) = watching.await? else {
            self.of(ticket, |place| place.about_to_watch = 0);
            return entry::queue(lock, &[]);
        };
        self.is_watched(ticket, Watch { watched: Watched::All, then: Then::Looks }, watcher);
        entry::queue(lock, &names)
    }

    /// A claim that is about to leave, or to hold, does not wait any more.
    pub(super) fn waits_no_more(&self, ticket: Ticket) {
        self.of(ticket, |place| {
            if place.watches.take().is_some() {
                self.listeners.order(Order::Forget { ticket });
            }
        });
    }

    fn is_watched(&self, ticket: Ticket, watch: Watch, watcher: OneshotWatcher) {
        // Whoever has no place any more has been given back meanwhile. What is ordered is ordered while that is known, so that
        // nobody forgets a watch before it is there.
        self.of(ticket, |place| {
            place.about_to_watch = 0;
            if let Stands::Waits(_) = place.stands {
                self.listeners.order(Order::Watch { ticket, watched: watch.watched.clone(), watcher });
                place.watches = Some(watch);
            }
        });
    }

    /// What the claim watched has gone or changed, or nobody can tell any more.
    fn hears(&self, ticket: Ticket, watched: &Watched, has_gone: bool) {
        let heard = self.places().hears(ticket, watched, has_gone);
        let granted = match heard {
            None => return,
            Some(holds) => holds.and_then(|made| {
                let next = self.places().holds(ticket, made.clone());
                self.tell_next(next);
                self.grant(&made).ok()
            }),
        };
        self.sink.send(match granted {
            Some((token, proof)) => Event::Granted { ticket, token, proof },
            None => Event::Recheck(ticket),
        });
    }
}

/// A session that nobody renews ends with its time, although the driver would keep it for as long as this process lives: the engine
/// may have given it up, and not have got through with that.
async fn serve(session: Weak<Shared>, mut states: StateWatcher, mut orders: UnboundedReceiver<Order>) {
    let mut watching: JoinSet<(Ticket, Watched, bool)> = JoinSet::new();
    let mut handles: HashMap<Ticket, AbortHandle> = HashMap::new();
    let mut wanted = JoinSet::from_iter([listen_to_wishes(session.clone(), states.clone())]);
    let _heard = JoinSet::from_iter([stay_heard(session.clone())]);
    let (clock, mut over) = {
        let Some(session) = session.upgrade() else { return };
        (session.clock, session.clock.sleep(session.ttl))
    };
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Forget { ticket }) => {
                    if let Some(handle) = handles.remove(&ticket) {
                        handle.abort();
                    }
                }
                Some(Order::Watch { ticket, watched, watcher }) => {
                    let handle = watching.spawn(async move {
                        let event = watcher.changed().await;
                        (ticket, watched, event.event_type == EventType::NodeDeleted)
                    });
                    if let Some(before) = handles.insert(ticket, handle) {
                        before.abort();
                    }
                }
            },
            Some(ended) = watching.join_next() => {
                // One that was not waited for any more has nothing to tell.
                let Ok((ticket, watched, has_gone)) = ended else { continue };
                handles.retain(|_, handle| !handle.is_finished());
                let Some(session) = session.upgrade() else { return };
                session.hears(ticket, &watched, has_gone);
            }
            Some(_) = wanted.join_next() => {
                let Some(session) = session.upgrade() else { return };
                // Without that node it would be no session to the others.
                session.sink.send(Event::Lost(Reason::SessionEnded));
            }
            () = &mut over => {
                let Some(session) = session.upgrade() else { return };
                let (until, now) = (session.pulse.lock().renewed() + session.ttl, clock.boot());
                if until <= now {
                    session.sink.send(Event::Lost(Reason::Expired));
                    session.wire.give_up();
                    return;
                }
                over = clock.sleep(until.since(now));
            }
            state = states.changed() => {
                let Some(session) = session.upgrade() else { return };
                match state {
                    // What was watched before still is, and what has happened meanwhile is told; but what was sent may be lost.
                    SessionState::SyncConnected => {
                        session.pulse.lock().is_lost();
                        session.sink.send(Event::Gap);
                    }
                    state if state.is_terminated() => {
                        session.sink.send(Event::Lost(Reason::SessionEnded));
                        return;
                    }
                    _ => session.pulse.lock().is_lost(),
                }
            }
        }
    }
}

/// Has the server hear of the session as often as a renewal needs it to. The driver's own pings are not as many, and nobody here
/// could tell that they have been answered. While there is no server, it sees to the certificates for the next one.
async fn stay_heard(session: Weak<Shared>) {
    loop {
        let pause = {
            let Some(session) = session.upgrade() else { return };
            let often = session.dial.options().tick / 3;
            if !session.wire.is_connected() {
                session.wire.renew_certificates();
                session.clock.sleep(DISCONNECTED)
            } else {
                if session.wire.silent_for() >= often {
                    // Without an answer it is asked again, and a renewal waits.
                    let _ = session.is_heard().await;
                }
                session.clock.sleep(often.saturating_sub(session.wire.silent_for()).max(often / 8))
            }
        };
        pause.await;
    }
}

/// Until the session's node for it has gone.
async fn listen_to_wishes(session: Weak<Shared>, mut states: StateWatcher) {
    let Some(path) = session.upgrade().map(|session| session.names.wanted(session.id)) else { return };
    loop {
        let watcher = {
            let Some(session) = session.upgrade() else { return };
            let Ok(client) = session.wire.client() else { return };
            match client.get_and_watch_data(&path).await {
                Ok((data, _, watcher)) => {
                    let words = String::from_utf8_lossy(&data).into_owned();
                    wishes::read(&words).for_each(|claim| session.sink.send(Event::Wanted(claim)));
                    Some(watcher)
                }
                Err(Driver::NoNode) => return,
                // There has been no connection: it is asked for with the next one.
                Err(_) => None,
            }
        };
        let Some(watcher) = watcher else {
            if is_connected(&mut states).await.is_err() {
                return;
            }
            // Where the error stays, it is not asked for without a pause.
            let Some(pause) = session.upgrade().map(|session| session.clock.sleep(DISCONNECTED)) else {
                return;
            };
            pause.await;
            continue;
        };
        let event = watcher.changed().await;
        if event.event_type == EventType::NodeDeleted {
            return;
        }
    }
}
