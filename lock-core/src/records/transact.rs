//! One command on one record: read, ask who lives, apply the table, compare and set; again until it fits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{RecordStore, Versioned, Written};
use crate::backend::{Certainty, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::key::LockKey;
use crate::table::{Applied, Command, Input, KeyRecord};

/// A command that was applied, and the record it left behind.
pub(super) struct Transacted {
    pub(super) applied: Applied,
    pub(super) record: KeyRecord,
    pub(super) input: Input,
}

/// Applies a command to a key's record. `own` is the liveness of the caller's session, if it has one.
///
/// Notices are delivered before it returns: after the write, and to whom they concern.
pub(super) async fn transact(
    store: &dyn RecordStore,
    key: &LockKey,
    command: &Command,
    own: Option<(SessionId, bool)>,
) -> Result<Transacted> {
    let mut liveness: BTreeMap<SessionId, bool> = own.into_iter().collect();
    let mut current = store.read(key).await?;
    loop {
        let before = decode(store, key, &current)?;
        let input = store.input().await?;
        let (applied, record) = judge(store, &before, input, command, &mut liveness).await?;
        // A write of an earlier copy may be on its way to an unchanged record. A tombstone moves its version, but a session
        // that is over gets none.
        let fence_off = matches!(command, Command::Release { certainty: Certainty::MaybeInFlight, .. })
            && own.is_some_and(|(_, lives)| !lives);
        if applied.changed || fence_off {
            match store.write(key, current.version, &record.encode()).await? {
                Written::Done => {}
                Written::Conflict(fresh) => {
                    current = fresh;
                    continue;
                }
            }
        }
        for notice in &applied.notices {
            store.notify(key, notice).await;
        }
        return Ok(Transacted { applied, record, input });
    }
}

pub(super) fn decode(store: &dyn RecordStore, key: &LockKey, versioned: &Versioned) -> Result<KeyRecord> {
    if versioned.bytes.is_empty() {
        return Ok(KeyRecord::with_fence(versioned.floor));
    }
    KeyRecord::decode(&versioned.bytes).map_err(|error| {
        Error::new(
            ErrorKind::Damaged,
            format!(
                "{} holds no lock record that this version reads. It is left as it is, for its fencing token must not \
                 be forgotten. If another version of this library wrote it, use that one; otherwise make sure that \
                 nobody holds the lock, and that the protected resource accepts a new token, then remove it",
                store.place(key)
            ),
        )
        .on(key)
        .caused_by(error)
    })
}

/// Applies the table as often as it asks for a session whose liveness is not known yet.
///
/// The table asks only where the answer matters, and an answer of the store may cost a round trip. So a session that is
/// not known counts as living at first; whoever was asked for is then looked up, and the command is judged again.
async fn judge(
    store: &dyn RecordStore,
    before: &KeyRecord,
    input: Input,
    command: &Command,
    liveness: &mut BTreeMap<SessionId, bool>,
) -> Result<(Applied, KeyRecord)> {
    loop {
        let mut record = before.clone();
        let (applied, unknown) = {
            let unknown = RefCell::new(Vec::new());
            let alive = |session: SessionId| {
                liveness.get(&session).copied().unwrap_or_else(|| {
                    unknown.borrow_mut().push(session);
                    true
                })
            };
            (record.apply(input, command, &alive), unknown.into_inner())
        };
        if unknown.is_empty() {
            return Ok((applied, record));
        }
        for session in unknown {
            if let Entry::Vacant(unasked) = liveness.entry(session) {
                let lives = match store.end_if_over(session).await {
                    // What is to be ended by force need not say first whether it lives.
                    Err(_) if matches!(command, Command::ForceRelease { .. }) => true,
                    lives => lives?,
                };
                unasked.insert(lives);
            }
        }
    }
}
