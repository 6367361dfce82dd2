//! [`Known`]: what a session remembers about its keys and holds, so that most calls need say little and ask once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{BootTime, Claim, ClaimRef, LockKey, Ticket};

use crate::entry::Held;
use crate::names::Names;
use crate::scripts::LineNumber;

/// For how long after a grant the next token may be foreseen.
const FRESH: Duration = Duration::from_millis(500);

/// How many keys without a claim are remembered before they are forgotten.
const IDLE_KEYS: usize = 4096;

/// Nothing in here decides anything: the server compares whatever is guessed from it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    keys: HashMap<LockKey, Key>,
    /// Every claim that may be in the store, and how it holds if that is known.
    claims: HashMap<Ticket, Option<Held>>,
    /// How many keys there may be before those without a claim are forgotten, if that is more than `IDLE_KEYS`.
    bound: usize,
}

#[derive(Debug)]
struct Key {
    called: Arc<Called>,
    fence: Option<Fence>,
    claims: usize,
}

/// The token of a grant, the line on which it was granted, and when. Another line may lead to a server that has taken over, which
/// may lack grants that were made since; and so may the same one, if it has been a replica meanwhile, which takes longer than a
/// second. A token must not be foreseen there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) token: u64,
    pub(crate) line: LineNumber,
    pub(crate) at: BootTime,
}

impl Fence {
    /// Whether what comes next may be foreseen, on this line and at this instant.
    pub(crate) fn is_fresh(&self, line: LineNumber, now: BootTime) -> bool {
        self.line == line && now.since(self.at) < FRESH
    }
}

/// What a key is called in the store.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) name: String,
    pub(crate) lock: String,
}

impl Known {
    /// A claim is about to be sent. Returns the fence that its key may have, and whether this is the first copy of it.
    pub(crate) fn claims(&mut self, names: &Names, claim: &Claim) -> (Arc<Called>, Option<Fence>, bool) {
        if self.keys.len() > self.bound.max(IDLE_KEYS) {
            self.keys.retain(|_, key| key.claims > 0);
            self.bound = 2 * self.keys.len();
        }
        let is_new = self.claims.insert(claim.ticket, None).is_none();
        let key = self.key(names, &claim.key);
        key.claims += usize::from(is_new);
        (key.called.clone(), key.fence, is_new)
    }

    /// It was granted under this token.
    pub(crate) fn granted(&mut self, claim: &Claim, held: Option<Held>, fence: Fence) {
        if let Some(known) = self.claims.get_mut(&claim.ticket) {
            *known = held;
        }
        if let Some(key) = self.keys.get_mut(&claim.key) {
            key.fence = Some(fence);
        }
    }

    /// A release is about to be sent. Returns how the claim may hold.
    pub(crate) fn releases(&mut self, names: &Names, claim: &ClaimRef) -> (Arc<Called>, Option<Held>) {
        let held = self.claims.get(&claim.ticket).cloned().flatten();
        (self.key(names, &claim.key).called.clone(), held)
    }

    /// Nothing of this claim is in the store any more.
    pub(crate) fn gone(&mut self, key: &LockKey, ticket: Ticket) {
        if self.claims.remove(&ticket).is_some()
            && let Some(key) = self.keys.get_mut(key)
        {
            key.claims = key.claims.saturating_sub(1);
        }
    }

    /// The key is called so; it need not be remembered for that.
    pub(crate) fn called(&self, names: &Names, key: &LockKey) -> Arc<Called> {
        self.keys.get(key).map_or_else(|| Arc::new(Called::new(names, key)), |known| known.called.clone())
    }

    /// The names of all keys of which there may be a claim in the store.
    pub(crate) fn names_in_use(&self) -> Vec<String> {
        self.keys.values().filter(|key| key.claims > 0).map(|key| key.called.name.clone()).collect()
    }

    fn key(&mut self, names: &Names, key: &LockKey) -> &mut Key {
        self.keys.entry(key.clone()).or_insert_with(|| Key {
            called: Arc::new(Called::new(names, key)),
            fence: None,
            claims: 0,
        })
    }
}

impl Called {
    pub(crate) fn new(names: &Names, key: &LockKey) -> Called {
        let name = key.encoded();
        Called { lock: names.lock(&name), name }
    }
}
