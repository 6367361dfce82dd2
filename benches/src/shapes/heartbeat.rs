//! What it costs to keep 1, 1,000 and 100,000 holds alive.

use std::time::Instant;

use lock_core::{
    Claim, ClaimRef, Claimed, Domain, EventSink, HolderInfo, LockKey, Mode, Permit, SessionId,
    SessionOptions, Ticket,
};
use tokio::runtime::Runtime;

use crate::Subject;
use crate::table::{Table, rounded};

pub(crate) fn measure(runtime: &Runtime, subject: &dyn Subject, table: &mut Table) {
    for holds in [1_u64, 1_000, 100_000] {
        let text = runtime.block_on(renew(subject, holds));
        table.note(&format!("heartbeat with {holds} holds"), text, None);
    }
}

/// One renewal verifies one chunk, as an engine chooses it; each hold is verified once in two thirds of a TTL.
async fn renew(subject: &dyn Subject, holds: u64) -> String {
    let backend = subject.backend();
    let chunk = backend.info().capabilities.verify_chunk;
    let ttl = std::time::Duration::from_secs(3600);
    let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), ttl, HolderInfo::new(1));
    let session = backend.open(&options, EventSink::new(|_| {})).await.unwrap().session;
    let mut known = Vec::new();
    for ticket in 0..holds {
        let key = LockKey::new(format!("heartbeat-{holds}-{ticket}")).unwrap();
        let claim = Claim::new(key.clone(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX);
        let claimed = session.claim(&claim).await.unwrap();
        assert!(matches!(claimed, Claimed::Granted { .. }), "{claimed:?}");
        known.push(ClaimRef::new(key, Ticket(ticket)));
    }
    let mut times = Vec::new();
    let start = Instant::now();
    for chunk in known.chunks(chunk) {
        let start = Instant::now();
        assert_eq!(session.renew(chunk).await.unwrap().standings.len(), chunk.len());
        times.push(start.elapsed());
    }
    let whole = start.elapsed();
    session.close().await.unwrap();
    times.sort_unstable();
    format!(
        "{} renewals of up to {chunk}, each {:?} (worst {:?}), all {:?}",
        times.len(),
        rounded(times[times.len() / 2]),
        rounded(times[times.len() - 1]),
        rounded(whole)
    )
}
