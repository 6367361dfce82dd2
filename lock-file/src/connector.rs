//! [`FileConnector`]: from `file:///dir` to a backend.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use lock_core::records::Records;
use lock_core::{Backend, Connector, Error, ErrorKind, Operation, Result, StoreUrl};

use crate::{FileOptions, FileStore};

/// Answers for `file:///dir`. Query keys: `group` (a name or a number) and `unsafe_fs` (a flag).
///
/// Clones share what they have connected to.
#[derive(Clone, Debug, Default)]
pub struct FileConnector {
    options: FileOptions,
    stores: Arc<Mutex<Vec<Weak<Records<FileStore>>>>>,
}

impl FileConnector {
    /// A connector with the usual options.
    pub fn new() -> FileConnector {
        FileConnector::default()
    }

    /// A connector whose URLs begin with these options.
    pub fn with_options(options: FileOptions) -> FileConnector {
        FileConnector { options, stores: Arc::default() }
    }

    /// [`FileStore::liveness_descriptors`] of every store that was reached through this connector and is still in use.
    pub fn liveness_descriptors(&self) -> Vec<OwnedFd> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores
            .iter()
            .filter_map(Weak::upgrade)
            .flat_map(|records| records.store().liveness_descriptors())
            .collect()
    }
}

#[async_trait]
impl Connector for FileConnector {
    fn schemes(&self) -> &[&'static str] {
        &["file"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let mut options = self.options.clone();
        if let Some(group) = url.take("group") {
            options = options.group_named(&group)?;
        }
        if url.take_flag("unsafe_fs")? {
            options = options.unsafe_fs(true);
        }
        let is_local = url.hosts().is_empty() && url.user().is_none() && url.path().starts_with('/');
        if !is_local {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                "a file: URL names an absolute path on this machine, with three slashes: file:///var/lib/app/locks",
            )
            .during(Operation::Connect));
        }
        let store = FileStore::open(url.path(), options).map_err(|error| error.during(Operation::Connect))?;
        let records = Arc::new(Records::new(store));
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(&records));
        Ok(records)
    }
}
