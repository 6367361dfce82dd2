//! [`Ears`]: which session listens on which channel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Event, EventSink};
use redis::{Cmd, PushInfo, PushKind, Value};

use crate::message;

/// Everybody who listens on a connection, whichever that is at the moment.
#[derive(Debug, Default)]
pub(crate) struct Ears {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By channel; with a number that tells a sink from the one before it.
    sinks: HashMap<String, (u64, EventSink)>,
    count: u64,
}

/// One session's ear. It stops listening when it is dropped; the server goes on sending until it is told, or the connection ends.
#[derive(Debug)]
pub(crate) struct Ear {
    ears: Arc<Ears>,
    channel: String,
    number: u64,
}

/// The command by which the server begins to send what comes on a channel. One for each: each is answered by one push.
pub(crate) fn subscription(channel: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg("SSUBSCRIBE").arg(channel);
    command
}

/// The driver takes whatever push names a subscription for the answer to the call that waits longest, also the word that a slot
/// has moved. So an answer has to be looked at: behind another one the connection's answers are no longer in step.
pub(crate) fn confirms(answer: &Value, channel: &str) -> bool {
    let Value::Push { kind: PushKind::SSubscribe, data } = answer else { return false };
    matches!(data.first(), Some(Value::BulkString(bytes)) if bytes == channel.as_bytes())
}

impl Ears {
    /// Whatever comes on this channel goes into this sink from now on, and into no earlier one; the server has to be asked for
    /// it.
    pub(crate) fn listen(self: &Arc<Ears>, channel: String, sink: EventSink) -> Ear {
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        state.sinks.insert(channel.clone(), (number, sink));
        Ear { ears: self.clone(), channel, number }
    }

    /// Whether this ear still is the one that listens on its channel.
    fn has(&self, channel: &str, number: u64) -> bool {
        self.state().sinks.get(channel).is_some_and(|(current, _)| *current == number)
    }

    pub(crate) fn channels(&self) -> Vec<String> {
        self.state().sinks.keys().cloned().collect()
    }

    /// Tells everybody that something may have been missed.
    pub(crate) fn gap(&self) {
        let sinks: Vec<_> = self.state().sinks.values().map(|(_, sink)| sink.clone()).collect();
        sinks.iter().for_each(|sink| sink.send(Event::Gap));
    }

    /// The server sends nothing more on this channel: its slot has moved to another node. Whoever listened has to listen there.
    pub(crate) fn lost(&self, channel: &str) {
        let lost = self.state().sinks.remove(channel);
        if let Some((_, sink)) = lost {
            sink.send(Event::Gap);
        }
    }

    /// Hands on what the server pushed. Never blocks: sinks promise that.
    pub(crate) fn hear(&self, push: &PushInfo) {
        let (channel, text) = match (&push.kind, &*push.data) {
            (PushKind::SMessage, [Value::BulkString(channel), Value::BulkString(text)]) => (channel, text),
            (PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                str::from_utf8(channel).iter().for_each(|channel| self.lost(channel));
                return;
            }
            _ => return,
        };
        let (Ok(channel), Ok(text)) = (str::from_utf8(channel), str::from_utf8(text)) else { return };
        // Never under the lock: a sink may be the last to let go of its session, and with it of its ear.
        let Some(sink) = self.state().sinks.get(channel).map(|(_, sink)| sink.clone()) else { return };
        match message::event(text) {
            Some(event) => sink.send(event),
            None => tracing::warn!(
                channel,
                "ignored a message that is none of ours: somebody else publishes here"
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear {
    /// Whether whatever comes on its channel still goes into its sink.
    pub(crate) fn listens(&self) -> bool {
        self.ears.has(&self.channel, self.number)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut state = self.ears.state();
        if state.sinks.get(&self.channel).is_some_and(|(number, _)| *number == self.number) {
            state.sinks.remove(&self.channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(channel: &str, text: &str) -> PushInfo {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        PushInfo { kind: PushKind::SMessage, data: vec![bulk(channel), bulk(text)] }
    }

    /// As the engine's sink does when it is the last to let go of its session.
    #[test]
    fn a_sink_may_drop_the_ear_that_it_was_told_by() {
        for tell in [Ears::gap, |ears: &Ears| ears.hear(&message("c", "r 1"))] {
            let (done, finished) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let (ears, last): (Arc<Ears>, Arc<Mutex<Option<Ear>>>) = Default::default();
                let own = last.clone();
                let ear = ears.listen("c".into(), EventSink::new(move |_| drop(own.lock().unwrap().take())));
                *last.lock().unwrap() = Some(ear);
                tell(&ears);
                done.send(ears.channels()).unwrap();
            });
            let left = finished.recv_timeout(std::time::Duration::from_secs(5));
            assert_eq!(left, Ok(vec![]), "it waits for itself");
        }
    }

    #[test]
    fn a_session_that_is_opened_twice_listens_once() {
        let ears: Arc<Ears> = Arc::default();
        let heard: Arc<Mutex<Vec<&str>>> = Arc::default();
        let sink = |name| {
            let heard = heard.clone();
            EventSink::new(move |_| heard.lock().unwrap().push(name))
        };
        let first = ears.listen("c".into(), sink("first"));
        let second = ears.listen("c".into(), sink("second"));
        drop(first);
        ears.hear(&message("c", "r 1"));
        ears.hear(&message("other", "r 1"));
        assert_eq!(*heard.lock().unwrap(), ["second"]);
        drop(second);
        ears.hear(&message("c", "r 1"));
        assert_eq!(*heard.lock().unwrap(), ["second"]);
        assert!(ears.channels().is_empty());
    }
}
