//! A store of one's own: records in a map, behind `shelf:` URLs.
//!
//! A store that can replace a record if nobody else was quicker needs no more than this. The lock table runs in the
//! client and brings the queue, the tokens, readers-writer locks and semaphores; the engine brings the rest.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fencepost::backend::records::{RecordSession, RecordStore, Records, Sight, Version, Versioned, Written};
use fencepost::backend::table::{Input, Notice, SessionCommand, SessionOutcome, SessionRecord};
use fencepost::backend::{Backend, Clock, Event, EventSink, Query, SessionOptions, SystemClock, async_trait};
use fencepost::{
    BackendInfo, Capabilities, Connector, Cursor, Error, ErrorKind, Fencing, LockKey, Page, Reason, Registry,
    Result, SessionId, StoreUrl,
};

/// What would be a server elsewhere. Clones are the same shelf.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    keys: BTreeMap<LockKey, (Version, Vec<u8>)>,
    sessions: HashMap<SessionId, (SessionRecord, EventSink)>,
}

impl Shelf {
    /// Loses whatever it knows of a key: for the suite that shows what becomes of its holder.
    #[allow(dead_code, reason = "the program below has no use for it, its test has")]
    pub(crate) fn forget(&self, key: &LockKey) {
        self.contents().keys.remove(key);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step in a session's life, and whether it lives after it. Atomic: the shelf is locked meanwhile.
    fn step(&self, session: SessionId, command: SessionCommand) -> bool {
        match self.contents().sessions.get_mut(&session) {
            Some((record, _)) => matches!(record.apply(now(), command), SessionOutcome::Lives { .. }),
            None => false,
        }
    }
}

/// The store's clock: it never goes back while the shelf exists.
fn now() -> u64 {
    SystemClock::new().boot().as_nanos() / 1000
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[async_trait]
impl RecordStore for Shelf {
    fn info(&self) -> BackendInfo {
        let promises = Capabilities::new().fencing(Fencing::Clock).fair().push().fixed_terms();
        BackendInfo::new("shelf", "shelf:", promises)
    }

    async fn input(&self) -> Result<Input> {
        Ok(Input { now: now(), proposed_token: SystemClock::new().wall_micros() })
    }

    async fn read(&self, key: &LockKey) -> Result<Versioned> {
        let (version, bytes) = self.contents().keys.get(key).cloned().unwrap_or((Version(0), Vec::new()));
        Ok(Versioned { version, bytes, floor: 0 })
    }

    async fn write(&self, key: &LockKey, expected: Version, record: &[u8]) -> Result<Written> {
        let mut contents = self.contents();
        let (version, bytes) = contents.keys.get(key).cloned().unwrap_or((Version(0), Vec::new()));
        if version != expected {
            return Ok(Written::Conflict(Versioned { version, bytes, floor: 0 }));
        }
        contents.keys.insert(key.clone(), (Version(version.0 + 1), record.to_vec()));
        Ok(Written::Done)
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        let contents = self.contents();
        let after = |key: &&LockKey| query.after.as_ref().is_none_or(|after| key.as_str() > after.as_str());
        let matching = contents.keys.keys().filter(|key| query.matches(key)).filter(after);
        let keys: Vec<_> = matching.take(query.limit).cloned().collect();
        let next = keys.last().filter(|_| keys.len() == query.limit).map(|key| Cursor::new(key.as_str()));
        Ok(Page::new(keys, next))
    }

    fn place(&self, key: &LockKey) -> String {
        format!("shelf:{}", key.encoded())
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Arc<dyn RecordSession>> {
        let record = SessionRecord::open(options.id, now(), micros(options.ttl), options.info.clone());
        self.contents().sessions.entry(options.id).or_insert((record, sink));
        if !self.step(options.id, SessionCommand::EndIfExpired) {
            return Err(Error::session_lost(Reason::SessionEnded));
        }
        Ok(Arc::new(Reader { shelf: self.clone(), id: options.id, ttl: options.ttl }))
    }

    async fn sight(&self, session: SessionId) -> Result<Sight> {
        Ok(match self.contents().sessions.get(&session) {
            Some((record, _)) if !record.is_ended() && record.expires_at() > now() => {
                let left = Duration::from_micros(record.expires_at() - now());
                Sight::living(left, record.info().clone())
            }
            _ => Sight::over(),
        })
    }

    async fn end_if_over(&self, session: SessionId) -> Result<bool> {
        Ok(self.step(session, SessionCommand::EndIfExpired))
    }

    async fn notify(&self, key: &LockKey, notice: &Notice) {
        if let Some((_, sink)) = self.contents().sessions.get(&notice.session) {
            sink.send(Event::from_notice(key, notice));
        }
    }
}

#[derive(Debug)]
struct Reader {
    shelf: Shelf,
    id: SessionId,
    ttl: Duration,
}

#[async_trait]
impl RecordSession for Reader {
    fn id(&self) -> SessionId {
        self.id
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&self) -> Result<bool> {
        Ok(self.shelf.step(self.id, SessionCommand::Renew))
    }

    async fn lives(&self) -> Result<bool> {
        Ok(self.shelf.step(self.id, SessionCommand::EndIfExpired))
    }

    async fn close(&self) -> Result<()> {
        self.shelf.step(self.id, SessionCommand::End);
        Ok(())
    }
}

#[async_trait]
impl Connector for Shelf {
    fn schemes(&self) -> &[&'static str] {
        &["shelf"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        if !url.hosts().is_empty() || !url.path().is_empty() {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                "there is one shelf: its URL is shelf: and no more",
            ));
        }
        Ok(Arc::new(Records::new(self.clone())))
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let registry = Registry::new().with(Shelf::default());
    let one = registry.connect("shelf:?ttl=300ms&name=one").await?;
    let other = registry.connect("shelf:?ttl=300ms&name=other").await?;

    let guard = one.mutex("k")?.acquire().await?;
    println!("one holds it under token {}", guard.token());
    if let Err(busy) = other.mutex("k")?.try_acquire().await? {
        println!("other is told: {busy}");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    println!("two TTLs later it was renewed: held is {}", guard.state().is_held());

    let waiter = other.mutex("k")?;
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    guard.release().await?;
    let next = waiter.await.map_err(|error| Error::invalid(error.to_string()))??;
    println!("other waited and holds it under token {}", next.token());
    Ok(())
}
