//! `memory:` and `memory:NAME` URLs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::MemoryBackend;
use crate::backend::Backend;
use crate::connect::{Connector, StoreUrl};
use crate::error::{Error, ErrorKind, Result};

/// Answers for `memory:` (a store of the client's own) and `memory:NAME` (shared by whoever uses the same registry).
#[derive(Debug, Default)]
pub struct MemoryConnector {
    named: Mutex<HashMap<String, Arc<MemoryBackend>>>,
}

impl MemoryConnector {
    /// A connector with no named store yet.
    pub fn new() -> MemoryConnector {
        MemoryConnector::default()
    }
}

#[async_trait]
impl Connector for MemoryConnector {
    fn schemes(&self) -> &[&'static str] {
        &["memory"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        if !url.hosts().is_empty() || url.user().is_some() {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                "a memory store has no host: write memory: or memory:NAME",
            ));
        }
        if url.path().is_empty() {
            return Ok(MemoryBackend::new());
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(named.entry(url.path().to_owned()).or_insert_with(MemoryBackend::new).clone())
    }
}
