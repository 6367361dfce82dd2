//! [`Voice`]: what is said on standard error, as lines for people or as events for programs.

use std::fmt::Display;
use std::io::{Write, stderr};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use fencepost::{HolderInfo, LockKey, Reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};

use crate::exit::Failure;

/// How this process speaks. Standard output is the command's alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    json: bool,
}

impl Voice {
    pub(crate) fn new(json: bool) -> Voice {
        Voice { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Something that is worth knowing and stops nothing.
    pub(crate) fn warn(self, text: impl Display) {
        self.say("warning", &text, json!({ "message": text.to_string() }));
    }

    /// Why the exit status is not the command's own.
    pub(crate) fn fail(self, key: Option<&LockKey>, failure: &Failure) {
        let Failure { code, text, busy } = failure;
        let mut event = json!({ "exit": code, "message": text });
        if let (Some(key), Value::Object(fields)) = (key, &mut event) {
            fields.insert("key".into(), key.as_str().into());
        }
        let name = if busy.is_some() { "busy" } else { "error" };
        if let (Some(busy), Value::Object(fields)) = (busy, &mut event) {
            fields.extend(in_the_way(busy.holder.as_ref(), busy.remaining));
        }
        self.say(name, text, event);
    }

    pub(crate) fn waiting(self, key: &LockKey, holder: Option<&HolderInfo>, remaining: Option<Duration>) {
        let mut event = in_the_way(holder, remaining);
        event.insert("key".into(), key.as_str().into());
        self.tell("waiting", Value::Object(event));
    }

    pub(crate) fn acquired(self, key: &LockKey, token: u64, mode: &str, permits: Option<(u32, u32)>) {
        let mut event = json!({ "key": key.as_str(), "token": token, "mode": mode });
        if let (Some((held, of)), Value::Object(fields)) = (permits, &mut event) {
            fields.insert("permits".into(), held.into());
            fields.insert("of".into(), of.into());
        }
        self.tell("acquired", event);
    }

    pub(crate) fn lost(self, key: &LockKey, reason: Reason) {
        self.tell("lost", json!({ "key": key.as_str(), "reason": reason.as_str() }));
    }

    pub(crate) fn child_exit(self, status: u8) {
        self.tell("child_exit", json!({ "status": status }));
    }

    pub(crate) fn released(self, key: &LockKey) {
        self.tell("released", json!({ "key": key.as_str() }));
    }

    /// For programs only.
    fn tell(self, event: &str, fields: Value) {
        if self.json {
            self.say(event, &"", fields);
        }
    }

    fn say(self, event: &str, text: &dyn Display, fields: Value) {
        let line = if self.json {
            let mut line = Map::from_iter([("event".to_owned(), Value::from(event))]);
            if let Value::Object(fields) = fields {
                line.extend(fields);
            }
            format!("{}\n", Value::Object(line))
        } else {
            let kind = if event == "warning" { "warning: " } else { "" };
            format!("fencepost: {kind}{text}\n")
        };
        write(line);
    }
}

/// Waits until everything was said.
pub(crate) fn finish() {
    if let Some(Some(backlog)) = BACKLOG.get() {
        let _ = backlog.lines.send(None);
        let writer = backlog.writer.lock().ok().and_then(|mut writer| writer.take());
        let _ = writer.map(JoinHandle::join);
    }
}

/// What whoever reads standard error has not taken yet. There is one thread to renew the lock; it must not wait for a
/// reader, so another does once that is needed.
static BACKLOG: OnceLock<Option<Backlog>> = OnceLock::new();

struct Backlog {
    /// None is the last.
    lines: Sender<Option<String>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Backlog {
    fn new() -> Option<Backlog> {
        let (lines, to_write) = channel::<Option<String>>();
        let write_all = move || {
            while let Ok(Some(line)) = to_write.recv() {
                write_now(&line);
            }
        };
        let writer = std::thread::Builder::new().spawn(write_all).ok()?;
        Some(Backlog { lines, writer: Mutex::new(Some(writer)) })
    }
}

fn write(line: String) {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let is_ready = || poll(&mut [PollFd::new(&stderr(), PollFlags::OUT)], Some(&now)) != Ok(0);
    if BACKLOG.get().is_none() && is_ready() {
        return write_now(&line);
    }
    match BACKLOG.get_or_init(Backlog::new) {
        Some(backlog) => drop(backlog.lines.send(Some(line))),
        None => write_now(&line),
    }
}

/// In one write: other processes have the same standard error. When nobody reads it there is nobody to tell.
fn write_now(line: &str) {
    let _ = stderr().write_all(line.as_bytes());
}

fn in_the_way(holder: Option<&HolderInfo>, remaining: Option<Duration>) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(holder) = holder {
        let who =
            json!({ "name": holder.name(), "host": holder.host(), "pid": holder.pid(), "pod": holder.pod() });
        fields.insert("holder".into(), who);
    }
    if let Some(remaining) = remaining {
        fields.insert("remaining_ms".into(), u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).into());
    }
    fields
}
