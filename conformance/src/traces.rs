//! [`Traces`]: everything that is traced on a thread, as text.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// Everything that is traced, on every level. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    text: Mutex<String>,
    spans: AtomicU64,
}

impl Traces {
    /// Listens to this thread for as long as something runs on it.
    pub(crate) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        // While there is only one listener, what another thread is the first to trace is asked about there, where nobody listens,
        // and from then on is off here as well. So there are two, of which one hears nothing.
        let _another = Dispatch::new(self.clone());
        tracing::subscriber::with_default(self.clone(), run)
    }

    pub(crate) fn text(&self) -> String {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, visit: impl FnOnce(&mut dyn Visit)) {
        let mut line = Line(String::new());
        visit(&mut line);
        let mut text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&line.0);
        text.push('\n');
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Traces {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(|visit| span.record(visit));
        Id::from_u64(self.0.spans.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        self.note(|visit| values.record(visit));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(|visit| event.record(visit));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
