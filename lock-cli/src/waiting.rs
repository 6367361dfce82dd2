//! Acquiring the lock, and saying meanwhile who has it.

use std::convert::Infallible;
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use fencepost::backend::{Clock, SystemClock};
use fencepost::{
    AcquireOptions, Error, ErrorKind, Guard, HolderState, Lock, LockClient, LockKey, LockState, Result, Wait,
};

use crate::exit::Failure;
use crate::say::Voice;
use crate::terminal::Terminal;

/// Who waits longer than this on a terminal is told for whom.
const A_MOMENT: Duration = Duration::from_secs(1);
/// Programs are told sooner: they asked for it.
const AN_INSTANT: Duration = Duration::from_millis(100);
/// The capacity that readers and writers give to a key.
const READERS: u32 = u32::MAX;

/// In which way the lock is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    Exclusive,
    /// Exclusive among readers and writers.
    Writer,
    Shared,
    Permits {
        held: u32,
        of: u32,
    },
}

/// What is wanted, and for how long one is ready to wait for it.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) key: &'a LockKey,
    pub(crate) want: Want,
    pub(crate) wait: Wait,
    pub(crate) options: AcquireOptions,
    pub(crate) busy_code: u8,
    pub(crate) in_directory: bool,
}

impl Wish<'_> {
    /// Acquires it, unless patience is over.
    pub(crate) async fn fulfil(&self, client: &LockClient, voice: Voice) -> Result<Guard, Failure> {
        tokio::select! {
            biased;
            acquired = self.acquire(client) => acquired.map_err(|error| match error.busy() {
                Some(busy) => Failure::busy(self.busy_code, self.key, busy.clone()),
                None => Failure::of(&error, self.in_directory),
            }),
            never = show(client, self.key, voice) => match never {},
        }
    }

    async fn acquire(&self, client: &LockClient) -> Result<Guard> {
        let clock = SystemClock::new();
        let began = clock.boot();
        let mut want = self.want;
        // Each turn has a reason that passes; what does not pass is an error of another kind.
        loop {
            let wait = match self.wait {
                Wait::AtMost(patience) => Wait::AtMost(patience.saturating_sub(clock.boot().since(began))),
                unbounded => unbounded,
            };
            let options = self.options.clone().wait(wait);
            match lock(client, self.key, want)?.acquire_with(&options).await {
                // This process was stopped, or the store was away, for longer than the TTL: back to the end of the queue.
                Err(error) if matches!(error.kind(), ErrorKind::SessionLost(_)) && !is_over(wait) => {}
                Err(error) => want = self.adapted(want, error)?,
                Ok(guard) => return Ok(guard),
            }
        }
    }

    /// A mutex and a readers-writer lock under one name are one lock: the first who came to an idle key decided what it
    /// is, and the others hold it in a way that excludes at least as much.
    fn adapted(&self, tried: Want, error: Error) -> Result<Want> {
        let ErrorKind::CapacityMismatch { in_force } = *error.kind() else { return Err(error) };
        match (self.want, tried, in_force) {
            (Want::Exclusive, Want::Exclusive, READERS) => Ok(Want::Writer),
            (Want::Exclusive, Want::Writer, 1) => Ok(Want::Exclusive),
            (Want::Shared, Want::Shared, 1) => Ok(Want::Exclusive),
            (Want::Shared, Want::Exclusive, READERS) => Ok(Want::Shared),
            _ => Err(error),
        }
    }
}

fn lock(client: &LockClient, key: &LockKey, want: Want) -> Result<Lock> {
    Ok(match want {
        Want::Exclusive => client.mutex(key)?,
        Want::Writer => client.rw_lock(key)?.write(),
        Want::Shared => client.rw_lock(key)?.read(),
        Want::Permits { held, of } => client.semaphore(key, of)?.permits(held)?,
    })
}

fn is_over(wait: Wait) -> bool {
    matches!(wait, Wait::AtMost(patience) if patience.is_zero())
}

/// Says who is in the way: to programs once, on a terminal as long as it lasts, and otherwise nothing.
async fn show(client: &LockClient, key: &LockKey, voice: Voice) -> Infallible {
    let clock = SystemClock::new();
    if voice.is_json() {
        clock.sleep(AN_INSTANT).await;
        let holders = client.inspect(key).await.map(|state| state.holders).unwrap_or_default();
        let holder = holders.first();
        voice.waiting(key, holder.and_then(|it| it.info.as_ref()), holder.and_then(|it| it.remaining));
        return std::future::pending().await;
    }
    let mut line = Line { painted: false };
    let began = clock.boot();
    loop {
        clock.sleep(A_MOMENT).await;
        // A job in the background has no business on the terminal; it may come to the front later.
        if !stderr().is_terminal() || !Terminal::open().is_ours() {
            continue;
        }
        if let Ok(state) = client.inspect(key).await {
            line.paint(&described(&state, clock.boot().since(began)));
        }
    }
}

/// What matters most comes first: the rest may be cut off.
fn described(state: &LockState, waited: Duration) -> String {
    let mut text = format!("fencepost: {} is held by ", state.key);
    match state.holders.first() {
        Some(HolderState { info: Some(info), .. }) => text.push_str(&info.to_string()),
        _ => text.push_str("another"),
    }
    if state.holders.len() > 1 {
        text.push_str(&format!(" and {} more", state.holders.len() - 1));
    }
    if let Some(note) = state.holders.first().and_then(|holder| holder.note.as_ref()) {
        text.push_str(&format!(": {}", note.as_str().escape_debug()));
    }
    text.push_str(&format!("; waiting since {}s", waited.as_secs()));
    text
}

/// One line of the terminal, which is rewritten, and is gone when it is dropped.
struct Line {
    painted: bool,
}

impl Line {
    fn paint(&mut self, text: &str) {
        let width = rustix::termios::tcgetwinsize(stderr()).map_or(0, |size| usize::from(size.ws_col));
        // Some terminals do not say how wide they are.
        let width = if width < 2 { 80 } else { width };
        // A line that is broken cannot be rewritten.
        let _ = write!(stderr(), "\r\x1b[K{}", cut(text, width - 1));
        self.painted = true;
    }
}

/// As much as has place in so many columns, or less: what may be wide counts as wide, which needs no table.
fn cut(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|&(_, letter)| {
        // The scripts of Europe and the Near East are narrow; behind them come the first wide ones.
        used += if letter < '\u{1100}' { 1 } else { 2 };
        used > columns
    });
    end.map_or(text, |(place, _)| &text[..place])
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.painted {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_its_columns() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcde");
        assert_eq!(cut("漢字漢字", 5), "漢字");
        assert_eq!(cut("äöü", 2), "äö");
        assert_eq!(cut("🔒x", 1), "");
    }
}
