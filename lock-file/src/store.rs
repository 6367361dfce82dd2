//! [`FileStore`]: the records of a directory.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::records::{RecordSession, RecordStore, Sight, Version, Versioned, Written};
use lock_core::table::{Input, Notice};
use lock_core::{
    BackendInfo, Capabilities, EventSink, Fencing, Finding, Liveness, LockKey, Operation, Page, Query,
    Result, SessionId, SessionOptions, Severity,
};

use crate::directory::Directory;
use crate::epoch::{Epoch, replaced};
use crate::keys::{KeyPath, Keys, Sweeper};
use crate::session::{FileSession, Sessions};
use crate::{FileOptions, filesystem};

/// For how long after its TTL the key of a stopped process may stay taken. A killed one's is free at once.
const EXPIRY_SLACK: Duration = Duration::from_millis(50);

/// The records of a directory: of its keys and of its sessions.
#[derive(Debug)]
pub struct FileStore {
    directory: Arc<Directory>,
    epoch: Arc<Epoch>,
    keys: Arc<Keys>,
    registry: Arc<Sessions>,
    sweeper: Arc<Sweeper>,
    open: Mutex<HashMap<SessionId, Weak<FileSession>>>,
}

impl FileStore {
    /// Opens a directory of locks, or makes it if it is missing.
    ///
    /// # Errors
    /// [`Misconfigured`](lock_core::ErrorKind::Misconfigured) for a symbolic link, a file system that is not known to work, or
    /// one that does not tell upper from lower case; [`Denied`](lock_core::ErrorKind::Denied) for a directory that others could
    /// write to; [`Exhausted`](lock_core::ErrorKind::Exhausted) for one that cannot be written at all.
    pub fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<FileStore> {
        let directory = Arc::new(Directory::open(path.as_ref(), &options)?);
        let epoch = Arc::new(Epoch::open(&directory, &options)?);
        let FileOptions { clock, idle_after, .. } = options;
        Ok(FileStore {
            keys: Arc::new(Keys::new(directory.clone(), epoch.clone(), clock.clone())),
            registry: Arc::new(Sessions::new(directory.clone(), epoch.clone(), clock)),
            sweeper: Arc::new(Sweeper::new(idle_after)),
            open: Mutex::default(),
            directory,
            epoch,
        })
    }

    /// A further descriptor for each session that is open in this process.
    ///
    /// A session's process counts as living until every one of them is closed: a child that inherits them keeps the
    /// locks from being granted to another before it has ended too, or the lease has. They close on exec; whoever hands
    /// them to a child clears that flag there.
    pub fn liveness_descriptors(&self) -> Vec<OwnedFd> {
        let sessions: Vec<_> = self.sessions().values().filter_map(Weak::upgrade).collect();
        sessions.iter().filter_map(|session| session.liveness_descriptor()).collect()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Weak<FileSession>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened_before(&self, id: SessionId) -> Option<Arc<FileSession>> {
        self.sessions().get(&id).and_then(Weak::upgrade)
    }
}

#[async_trait]
impl RecordStore for FileStore {
    fn info(&self) -> BackendInfo {
        let capabilities = Capabilities::new()
            .liveness(Liveness::ProcessAndLease)
            .expiry_slack(EXPIRY_SLACK)
            .fencing(Fencing::Clock)
            .fair()
            .push()
            .fixed_terms();
        BackendInfo::new("file", &*self.directory.endpoint, capabilities)
    }

    async fn input(&self) -> Result<Input> {
        Ok(self.epoch.input())
    }

    async fn read(&self, key: &LockKey) -> Result<Versioned> {
        self.keys.read(key).await.map_err(|error| error.on(key))
    }

    async fn write(&self, key: &LockKey, expected: Version, record: &[u8]) -> Result<Written> {
        self.keys.write(key, expected, record).await.map_err(|error| error.on(key))
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        self.keys.list(query)
    }

    fn place(&self, key: &LockKey) -> String {
        self.keys.place(&KeyPath::of(key))
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Arc<dyn RecordSession>> {
        if let Some(session) = self.opened_before(options.id).filter(|session| !session.is_over()) {
            return Ok(session);
        }
        if !self.registry.is_in_place() {
            return Err(replaced(&self.directory).during(Operation::Open));
        }
        // Both best effort: another session will do it.
        let _ = self.epoch.note_time(&self.directory);
        let _ = self.registry.sweep();
        let (registry, keys, sweeper) = (self.registry.clone(), self.keys.clone(), self.sweeper.clone());
        let session = Arc::new(FileSession::open(registry, keys, sweeper, options, sink)?);
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.strong_count() > 0);
        sessions.insert(options.id, Arc::downgrade(&session));
        Ok(session)
    }

    async fn sight(&self, session: SessionId) -> Result<Sight> {
        self.registry.sight(session)
    }

    async fn end_if_over(&self, session: SessionId) -> Result<bool> {
        self.registry.end_if_over(session)
    }

    async fn notify(&self, key: &LockKey, notice: &Notice) {
        self.registry.notify(key, notice);
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        let number = self.directory.file_system;
        if filesystem::is_known(number) {
            return Ok(Vec::new());
        }
        Ok(vec![Finding::new(
            Severity::Unsafe,
            "file system",
            format!(
                "{} lies on {}, which is not known to lock and rename as this store needs it: two processes could hold \
                 one lock. Use a local file system",
                self.directory.path.display(),
                filesystem::name(number)
            ),
        )])
    }
}
