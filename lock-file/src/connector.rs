//! [`FileConnector`]: from `file:///dir` to a backend.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{Backend, Connector, Error, ErrorKind, Operation, Result, StoreUrl};

use crate::FileOptions;

/// Answers for `file:///dir`. Query keys: `group` (a name or a number) and `unsafe_fs` (a flag).
#[derive(Clone, Debug, Default)]
pub struct FileConnector {
    options: FileOptions,
}

impl FileConnector {
    /// A connector with the usual options.
    pub fn new() -> FileConnector {
        FileConnector::default()
    }

    /// A connector whose URLs begin with these options.
    pub fn with_options(options: FileOptions) -> FileConnector {
        FileConnector { options }
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
        crate::backend(url.path(), options).map_err(|error| error.during(Operation::Connect))
    }
}
