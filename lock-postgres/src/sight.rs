//! What can be seen of the store from outside, and done without a session.

use lock_core::{
    Cursor, Error, FencingToken, HolderInfo, HolderState, LockKey, LockState, Mode, Page, Query, Result,
    WaiterState,
};
use lock_core::{ErrorKind, Ticket};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ask::{duration, fenced, note, session, token};
use crate::failure::{failed, unexpected};
use crate::line::query;
use crate::names::{beginning, behind, from_hex, hex, key, name};
use crate::store::Store;

pub(crate) async fn inspect(store: &Store, key: &LockKey) -> Result<LockState> {
    let rows = store.query(query!(store.dial.schema.inspect, name(key))).await?;
    let mut state = LockState::idle(key.clone());
    let Some(first) = rows.first() else { return Ok(state) };
    let (fence, capacity): (i64, i64) =
        (first.try_get(0).map_err(failed)?, first.try_get(1).map_err(failed)?);
    state.fence = u64::try_from(fence).ok().and_then(|fence| FencingToken::new(fence).ok());
    for row in rows.iter().skip(1) {
        match seen(row).map_err(failed)? {
            Some(Seen::Holder(holder)) => state.holders.push(holder),
            Some(Seen::Waiter(waiter)) => state.queue.push(waiter),
            None => {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!("what stands in the tables under {key:?} is not what this library writes"),
                ));
            }
        }
    }
    state.capacity = u32::try_from(capacity).ok().filter(|_| !state.is_idle());
    Ok(state)
}

pub(crate) async fn list(store: &Store, query: &Query) -> Result<Page> {
    let begins = beginning(query.prefix.as_ref(), &query.starting_with);
    let after = query.after.as_ref().and_then(|cursor| from_hex(cursor.as_str()));
    let is_after = after.is_some();
    // One more than a page has, to know whether there is another page.
    let limit = i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX);
    let (from, before) = (after.unwrap_or_else(|| begins.clone()), behind(&begins));
    let rows = store.query(query!(store.dial.schema.list, from, is_after, before, limit)).await?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Vec<u8>>, _>>().map_err(failed)?;
    let is_last = names.len() <= query.limit;
    let names = &names[..names.len().min(query.limit)];
    let next = names.last().filter(|_| !is_last).map(|name| Cursor::new(hex(name)));
    // Under no prefix there are those of every prefix as well.
    let keys = names.iter().filter_map(|name| key(name)).filter(|key| query.matches(key)).collect();
    Ok(Page::new(keys, next))
}

pub(crate) async fn force_release(store: &Store, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
    let only = only.and_then(|token| i64::try_from(token.get()).ok());
    let rows = store.query(query!(store.dial.schema.force_release, name(key), only)).await?;
    let row = rows.first().ok_or_else(|| unexpected("a forced release"))?;
    let (ended, expired): (i64, Vec<Vec<u8>>) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if ended < 0 {
        return Err(fenced());
    }
    if !expired.is_empty() {
        store.end(expired).await?;
        store.settle(&[name(key)]).await?;
    }
    usize::try_from(ended).map_err(|_| unexpected("a forced release"))
}

enum Seen {
    Holder(HolderState),
    Waiter(WaiterState),
}

/// `None` for what this library does not write.
fn seen(row: &PgRow) -> Result<Option<Seen>, sqlx::Error> {
    let waits: bool = row.try_get(2)?;
    let (of, ticket): (Vec<u8>, i64) = (row.try_get(3)?, row.try_get(4)?);
    let granted: Option<i64> = row.try_get(5)?;
    let (mode, words): (String, Vec<u8>) = (row.try_get(6)?, row.try_get(7)?);
    let kind: i8 = row.try_get(8)?;
    let ends_in: Option<i64> = row.try_get(9)?;
    let info: Option<String> = row.try_get(10)?;
    let info = info.as_deref().and_then(HolderInfo::decode);
    let read = || {
        let (session, ticket, mode) =
            (session(&of)?, Ticket(u64::try_from(ticket).ok()?), Mode::decode(&mode)?);
        if waits {
            return Some(Seen::Waiter(WaiterState::new(session, ticket, mode).described(info, note(&words))));
        }
        let token = granted.and_then(|number| token(number).ok())?;
        let is_fixed = u8::try_from(kind).ok()? != b's';
        Some(Seen::Holder(
            HolderState::new(session, ticket, token, mode)
                .ends_in(ends_in.map(duration), is_fixed)
                .described(info, note(&words)),
        ))
    };
    Ok(read())
}
