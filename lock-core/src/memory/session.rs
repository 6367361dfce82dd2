//! One session of the memory store.

use std::sync::Arc;

use async_trait::async_trait;

use super::store::Store;
use crate::backend::{Certainty, Claim, ClaimRef, Claimed, Released, Renewal, Session, SessionId};
use crate::error::Result;

#[derive(Debug)]
pub(super) struct MemorySession {
    store: Arc<Store>,
    id: SessionId,
}

impl MemorySession {
    pub(super) fn new(store: Arc<Store>, id: SessionId) -> MemorySession {
        MemorySession { store, id }
    }
}

#[async_trait]
impl Session for MemorySession {
    fn id(&self) -> SessionId {
        self.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.store.renew(self.id, known)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.store.claim(self.id, claim)
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.store.release(self.id, claim, certainty)
    }

    async fn close(&self) -> Result<()> {
        self.store.close(self.id);
        Ok(())
    }
}
