//! What can be seen of the store: one key, and which keys there are.

use std::collections::BTreeMap;

use lock_core::{Cursor, HolderState, LockKey, LockState, Note, Page, Query, Result, SessionId, WaiterState};
use zookeeper_client::{Client, Error as Driver, MultiReadResult, Stat};

use crate::entry::{self, Queue};
use crate::failure::failed;
use crate::link::Link;
use crate::names::Names;
use crate::session::token;

/// How many nodes one request reads.
const AT_ONCE: usize = 250;

/// A node's data, and what else the store knows of it.
type Found = (Vec<u8>, Stat);

/// The claims of a lock by now: the server that is asked has to have heard of all that has happened.
pub(crate) async fn queue(link: &Link, names: &Names, key: &LockKey) -> Result<Queue> {
    let lock = names.lock(key);
    let path = lock.clone();
    let names = link.ask(|client| async move { children(&client, &path).await }).await?;
    entry::queue(&lock, &names).map_err(|error| error.on(key))
}

pub(crate) async fn inspect(link: &Link, names: &Names, key: &LockKey) -> Result<LockState> {
    let queue = queue(link, names, key).await?;
    let lock = names.lock(key);
    let claims: Vec<_> = queue.entries().iter().map(|entry| format!("{lock}/{}", entry.name)).collect();
    let of_sessions: BTreeMap<SessionId, String> =
        queue.entries().iter().map(|entry| (entry.session, names.session(entry.session))).collect();
    let (found, infos) = link
        .ask(|client| async move {
            let sessions: Vec<_> = of_sessions.values().cloned().collect();
            let (found, infos) = (read(&client, &claims).await?, read(&client, &sessions).await?);
            Ok((found, of_sessions.into_keys().zip(infos).collect::<BTreeMap<_, _>>()))
        })
        .await?;
    let of_session = |session: &SessionId| {
        let (data, _) = infos.get(session)?.as_ref()?;
        entry::read_of_session(data)
    };
    let (mut state, holders) = (LockState::idle(key.clone()), queue.holders());
    for (place, (entry, found)) in queue.entries().iter().zip(found).enumerate() {
        // It has gone meanwhile.
        let Some((note, stat)) = found else { continue };
        let note = String::from_utf8(note).ok().filter(|note| !note.is_empty());
        let note = note.and_then(|note| Note::new(note).ok());
        let (ttl, info) = of_session(&entry.session).unzip();
        let info = info.flatten();
        if place < holders {
            let token = token(stat.czxid)?;
            let holder = HolderState::new(entry.session, entry.ticket, token, entry.mode);
            // At most: it begins anew with each renewal, and when the last one was the servers tell by their wall clock alone.
            state.holders.push(holder.ends_in(ttl, false).described(info, note));
            state.fence = state.fence.max(Some(token));
        } else {
            let waiter = WaiterState::new(entry.session, entry.ticket, entry.mode);
            state.queue.push(waiter.described(info, note));
        }
    }
    state.capacity = queue.entries().first().map(|entry| lock_core::queue::Entry::permit(entry).capacity());
    Ok(state)
}

/// In the order of their names. A lock's node stays for a while when nobody holds it or waits any more.
pub(crate) async fn list(link: &Link, names: &Names, query: &Query) -> Result<Page> {
    let locks = names.locks();
    let mut keys: Vec<(String, LockKey)> = link
        .ask(|client| async move { children(&client, &locks).await })
        .await?
        .into_iter()
        .filter_map(|name| LockKey::decode(&name).map(|key| (name, key)))
        .filter(|(_, key)| query.matches(key))
        .collect();
    keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(after) = &query.after {
        let after = LockKey::new(after.as_str())?.under(query.prefix.as_ref()).encoded();
        keys.retain(|(name, _)| *name > after);
    }
    let mut page = Page::default();
    for some in keys.chunks(AT_ONCE) {
        let paths: Vec<_> = some.iter().map(|(_, key)| names.lock(key)).collect();
        let in_use = link.ask(|client| async move { have_children(&client, &paths).await }).await?;
        for ((_, key), _) in some.iter().zip(in_use).filter(|(_, in_use)| *in_use) {
            if page.keys.len() == query.limit {
                page.next = page.keys.last().map(|key| Cursor::new(key.as_str()));
                return Ok(page);
            }
            page.keys.push(key.clone());
        }
    }
    Ok(page)
}

/// The names in a node, of which all is known that has happened by now.
async fn children(client: &Client, path: &str) -> Result<Vec<String>> {
    let (synced, listed) = (client.sync(path), client.list_children(path));
    synced.await.map_err(failed)?;
    match listed.await {
        Ok(names) => Ok(names),
        Err(Driver::NoNode) => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

async fn have_children(client: &Client, paths: &[String]) -> Result<Vec<bool>> {
    let looking: Vec<_> = paths.iter().map(|path| client.check_stat(path)).collect();
    let mut in_use = Vec::with_capacity(paths.len());
    for looked in looking {
        in_use.push(looked.await.map_err(failed)?.is_some_and(|stat| stat.num_children > 0));
    }
    Ok(in_use)
}

/// What is in each of these nodes that is there.
async fn read(client: &Client, paths: &[String]) -> Result<Vec<Option<Found>>> {
    let mut all = Vec::with_capacity(paths.len());
    for some in paths.chunks(AT_ONCE) {
        let mut reader = client.new_multi_reader();
        for path in some {
            reader.add_get_data(path).map_err(failed)?;
        }
        for found in reader.commit().await.map_err(failed)? {
            all.push(match found {
                MultiReadResult::Data { data, stat } => Some((data, stat)),
                MultiReadResult::Error { err: Driver::NoNode } => None,
                MultiReadResult::Error { err } => return Err(failed(err)),
                _ => None,
            });
        }
    }
    Ok(all)
}
