//! What can be seen of the store: one key, and which keys there are.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use lock_core::{
    Cursor, Domain, Error, ErrorKind, FencingToken, HolderState, LockKey, LockState, Page, Query, Result,
    SessionId, WaiterState,
};
use redis::{Cmd, Value};

use crate::entry::{self, HolderEntry, Kind, Record};
use crate::failure::{is_moving, unexpected};
use crate::known::Called;
use crate::names::Namespace;
use crate::store::{Node, Question, Store};
use crate::{reply, scripts};

/// How many keys one SCAN looks at, and one MGET reads.
const AT_ONCE: usize = 500;

/// A session, as the server knows it at this instant.
struct Seen {
    value: String,
    left: Option<Duration>,
}

pub(crate) async fn inspect(store: &Store, namespace: &Namespace, key: &LockKey) -> Result<LockState> {
    let domain = store.domain(key);
    let called = Called::new(&namespace.of(domain), key);
    let arguments = |command: &mut Cmd, _| {
        command.arg(1).arg(&called.lock).arg(&called.name);
    };
    let answer = store.ask(domain, None, Question::Script(&scripts::INSPECT, &arguments)).await?;
    let wrong = || unexpected("a look", &answer);
    let Value::Array(parts) = &answer else { return Err(wrong()) };
    let [now, text, Value::Array(queue), Value::Array(sessions)] = &parts[..] else { return Err(wrong()) };
    let mut state = LockState::idle(key.clone());
    let Some(text) = reply::text(text) else { return Ok(state) };
    let now = reply::number(now).ok_or_else(wrong)?;
    let record = Record::read(text).ok_or_else(|| damaged(key))?;
    let sessions = seen(sessions).ok_or_else(wrong)?;
    state.fence = FencingToken::new(record.fence).ok();
    state.holders = record.holders.iter().filter_map(|entry| holder(entry, now, &sessions)).collect();
    for pair in queue.chunks_exact(2) {
        let id = reply::text(&pair[0]).and_then(entry::claim_id);
        let waits = reply::text(&pair[1]).and_then(entry::waiter);
        let ((session, ticket), (mode, note)) = id.zip(waits).ok_or_else(|| damaged(key))?;
        if let Some(seen) = sessions.get(&session) {
            state
                .queue
                .push(WaiterState::new(session, ticket, mode).described(reply::info(&seen.value), note));
        }
    }
    state.capacity = record.capacity.filter(|_| !state.is_idle());
    Ok(state)
}

/// Every key is looked at for each page: the server has no order of its own, and a page's end has to mean something.
pub(crate) async fn list(store: &Store, namespace: &Namespace, query: &Query) -> Result<Page> {
    let mut candidates = Vec::new();
    for node in store.primaries().await? {
        candidates.extend(scan(&node, namespace, query).await?);
    }
    candidates.sort_unstable();
    candidates.dedup();
    let mut page = Page::default();
    for chunk in candidates.chunks(AT_ONCE) {
        for key in in_use(store, namespace, chunk).await? {
            // What stands in a record may have died since.
            match inspect(store, namespace, &key).await {
                Ok(state) if state.is_idle() => continue,
                // Somebody has to look at it: it is in use for all that is known.
                Err(error) if *error.kind() != ErrorKind::Damaged && !is_moving(&error) => return Err(error),
                _ => {}
            }
            if page.keys.len() == query.limit {
                page.next = page.keys.last().map(|key| Cursor::new(key.as_str()));
                return Ok(page);
            }
            page.keys.push(key);
        }
    }
    Ok(page)
}

async fn scan(node: &Node, namespace: &Namespace, query: &Query) -> Result<Vec<LockKey>> {
    let begins = query.prefix.as_ref().map_or_else(String::new, |prefix| {
        // As a key under that prefix begins.
        let any = LockKey::new("x").map(|key| key.under(Some(prefix)).encoded()).unwrap_or_default();
        any.trim_end_matches('x').to_owned()
    });
    let pattern = namespace.pattern(&begins);
    let (mut found, mut cursor) = (Vec::new(), 0);
    loop {
        let mut command = Cmd::new();
        command.arg("SCAN").arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(AT_ONCE);
        let answer = node.commands.call(&command).await?;
        let wrong = || unexpected("SCAN", &answer);
        let Value::Array(parts) = &answer else { return Err(wrong()) };
        let [next, Value::Array(locks)] = &parts[..] else { return Err(wrong()) };
        let keys = locks.iter().filter_map(|lock| namespace.key_of(reply::text(lock)?));
        let behind = |key: &LockKey| query.after.as_ref().is_none_or(|after| key.as_str() > after.as_str());
        found.extend(keys.filter(|key| query.matches(key) && behind(key)));
        cursor = reply::number(next).ok_or_else(wrong)?;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

/// Those whose records say that somebody holds them or waits, in the order of the names.
async fn in_use(store: &Store, namespace: &Namespace, keys: &[LockKey]) -> Result<Vec<LockKey>> {
    let mut domains: BTreeMap<Domain, Vec<&LockKey>> = BTreeMap::new();
    for key in keys {
        domains.entry(store.domain(key)).or_default().push(key);
    }
    let mut found = Vec::new();
    for (domain, keys) in domains {
        let names = namespace.of(domain);
        let mut command = Cmd::new();
        command.arg("MGET");
        keys.iter().for_each(|key| {
            command.arg(names.lock(&key.encoded()));
        });
        let answer = match store.ask(domain, None, Question::Command(&command)).await {
            // Those that have gone ahead cannot be read from here: they may be in use.
            Err(error) if is_moving(&error) => {
                found.extend(keys.iter().map(|key| (*key).clone()));
                continue;
            }
            answer => answer?,
        };
        let Value::Array(records) = &answer else { return Err(unexpected("MGET", &answer)) };
        let in_use = |record: &Value| reply::text(record).is_some_and(Record::is_in_use);
        found.extend(
            keys.iter().zip(records).filter(|(_, record)| in_use(record)).map(|(key, _)| (*key).clone()),
        );
    }
    found.sort_unstable();
    Ok(found)
}

/// `None` for one that has died or expired.
fn holder(entry: &HolderEntry, now: u64, sessions: &HashMap<SessionId, Seen>) -> Option<HolderState> {
    let seen = sessions.get(&entry.session);
    let left = Duration::from_micros(entry.until.saturating_sub(now));
    // Kept by its session's life, or else by `hold_at_least`, which nobody has written down as such yet.
    let (fixed, left) = match (entry.kind, seen) {
        (Kind::Session, Some(seen)) => (false, seen.left?),
        _ => (true, Some(left).filter(|left| !left.is_zero())?),
    };
    let info = seen.and_then(|seen| reply::info(&seen.value));
    let state = HolderState::new(entry.session, entry.ticket, entry.token, entry.mode);
    Some(state.ends_in(Some(left), fixed).described(info, entry.note.clone()))
}

fn seen(words: &[Value]) -> Option<HashMap<SessionId, Seen>> {
    let mut sessions = HashMap::new();
    for words in words.chunks_exact(3) {
        // A session that is over has no value.
        let Some(value) = reply::text(&words[1]) else { continue };
        let left = reply::number(&words[2]).map(Duration::from_millis);
        sessions.insert(reply::text(&words[0])?.parse().ok()?, Seen { value: value.to_owned(), left });
    }
    Some(sessions)
}

fn damaged(key: &LockKey) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "the record is not what this library writes: does something else write into this namespace?",
    )
    .on(key)
}
