//! What can be seen of the store: one key, and which keys there are.

use std::collections::HashMap;

use etcd_client::{GetOptions, SortOrder, SortTarget};
use lock_core::{Cursor, HolderState, LockKey, LockState, Page, Query, Result, WaiterState};

use crate::claim;
use crate::entry::Kind;
use crate::lease;
use crate::link::Link;
use crate::names::Names;
use crate::queue::Queue;
use crate::session::token;

/// How many claims one look reads.
const AT_ONCE: i64 = 1_000;

pub(crate) async fn queue(link: &Link, names: &Names, key: &LockKey) -> Result<Queue> {
    let (lock, look) = (names.lock(key), GetOptions::new().with_prefix());
    let all = link.get(lock, look).await?;
    claim::queue(all.kvs()).map_err(|error| error.on(key))
}

pub(crate) async fn inspect(link: &Link, names: &Names, key: &LockKey) -> Result<LockState> {
    let queue = queue(link, names, key).await?;
    let (mut state, mut left) = (LockState::idle(key.clone()), HashMap::new());
    let holders = queue.holders();
    for (place, entry) in queue.entries().iter().enumerate() {
        if place >= holders {
            let waiter = WaiterState::new(entry.session, entry.ticket, entry.mode);
            state.queue.push(waiter.described(entry.info.clone(), entry.note.clone()));
            continue;
        }
        let token = token(entry.revision)?;
        let remaining = match left.get(&entry.lease) {
            Some(remaining) => *remaining,
            None => {
                let remaining = lease::remaining(link, entry.lease).await?;
                left.insert(entry.lease, remaining);
                remaining
            }
        };
        let is_fixed = matches!(entry.kind, Kind::Fixed | Kind::Kept);
        let holder = HolderState::new(entry.session, entry.ticket, token, entry.mode);
        state
            .holders
            .push(holder.ends_in(remaining, is_fixed).described(entry.info.clone(), entry.note.clone()));
        state.fence = state.fence.max(Some(token));
    }
    state.capacity = queue.entries().first().map(|entry| entry.permit.capacity());
    Ok(state)
}

/// In the order of the names: each key that is there is held or waited for.
pub(crate) async fn list(link: &Link, names: &Names, query: &Query) -> Result<Page> {
    let locks = names.locks();
    let end = locks.trim_end_matches('/').to_owned() + "0";
    let mut from = match &query.after {
        // Behind all claims of that key.
        Some(after) => {
            let key = LockKey::new(after.as_str())?.under(query.prefix.as_ref());
            (names.lock(&key).trim_end_matches('/').to_owned() + "0").into_bytes()
        }
        None => locks.into_bytes(),
    };
    let mut page = Page::default();
    loop {
        let look = GetOptions::new()
            .with_range(end.clone())
            .with_keys_only()
            .with_limit(AT_ONCE)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let start = from.clone();
        let found = link.get(start, look).await?;
        for kv in found.kvs() {
            let Some(key) = kv.key_str().ok().and_then(|name| names.key_of(name)) else { continue };
            if !query.matches(&key) || page.keys.last() == Some(&key) {
                continue;
            }
            if page.keys.len() == query.limit {
                page.next = page.keys.last().map(|key| Cursor::new(key.as_str()));
                return Ok(page);
            }
            page.keys.push(key);
        }
        match found.kvs().last() {
            // Whatever it is called: something else may lie there.
            Some(last) if found.more() => from = [last.key(), b"\0"].concat(),
            _ => return Ok(page),
        }
    }
}
