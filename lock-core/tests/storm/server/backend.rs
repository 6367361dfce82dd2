//! The store's face towards the engine.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, EventSink, FencingToken, HolderState, LockKey,
    LockState, Mode, Opened, Page, Query, Released, Renewal, Result, Session, SessionId, SessionOptions,
};

use super::Server;
use crate::weather::Op;

/// A backend of which every call may go wrong.
pub(crate) struct HostileBackend {
    server: Server,
}

#[derive(Debug)]
struct HostileSession {
    server: Server,
    id: SessionId,
}

impl HostileBackend {
    pub(super) fn new(server: Server) -> Arc<HostileBackend> {
        Arc::new(HostileBackend { server })
    }
}

#[async_trait]
impl Backend for HostileBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("hostile", "hostile:", self.server.capabilities())
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let (options, id) = (options.clone(), options.id);
        let opened = self
            .server
            .call(Op::Open, "open", Some(id), None, move |server, _| server.open(&options, sink))
            .await?;
        Ok(Opened::new(Arc::new(HostileSession { server: self.server.clone(), id }), opened))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        let key = key.clone();
        self.server.call(Op::Other, "inspect", None, None, move |server, _| Ok(server.inspect(&key))).await
    }

    async fn list(&self, _query: &Query) -> Result<Page> {
        Ok(Page::new(Vec::new(), None))
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        let key = key.clone();
        self.server
            .call(Op::Other, "force_release", None, None, move |server, _| {
                Ok(server.force_release(&key, only))
            })
            .await
    }
}

#[async_trait]
impl Session for HostileSession {
    fn id(&self) -> SessionId {
        self.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.server.watch_renewal(self.id, known.len());
        let (id, known) = (self.id, known.to_vec());
        self.server
            .call(Op::Renew, "renew", Some(id), None, move |server, prompt| server.renew(id, &known, prompt))
            .await
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        let (id, claim) = (self.id, claim.clone());
        let ticket = Some(claim.ticket);
        self.server
            .call(Op::Claim, "claim", Some(id), ticket, move |server, _| server.claim(id, &claim))
            .await
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        self.server.watch_release(self.id, claim, certainty);
        let (id, claim) = (self.id, claim.clone());
        let settled = certainty == Certainty::Settled;
        self.server
            .call(Op::Release, "release", Some(id), None, move |server, _| {
                server.release(id, &claim, settled)
            })
            .await
    }

    async fn close(&self) -> Result<()> {
        let id = self.id;
        self.server.call(Op::Close, "close", Some(id), None, move |server, _| server.close(id)).await
    }
}

impl Server {
    fn inspect(&self, key: &LockKey) -> LockState {
        let mut state = self.state();
        let mut seen = LockState::idle(key.clone());
        let holders = self.judge(&mut state, |table, now| table.holders(now, key));
        let state = |(session, ticket, token)| HolderState::new(session, ticket, token, Mode::Exclusive);
        seen.holders.extend(holders.into_iter().map(state));
        seen
    }
}

impl fmt::Debug for HostileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostileBackend({:?})", self.server)
    }
}
