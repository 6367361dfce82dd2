//! [`Names`]: what the store's keys are called.

use std::fmt;

use lock_core::{Error, LockKey, Result, SessionId, Ticket};

/// Every name of one store begins with `ROOT/`.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
}

impl Names {
    pub(crate) fn new(root: &str) -> Result<Names> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if root.is_empty() || root.len() > 200 || !root.bytes().all(allowed) || root.ends_with('/') {
            return Err(Error::invalid(format!(
                "a root in etcd is 1 to 200 ASCII letters, digits or any of - _ . / : without a slash at its end, and this is not: \
                 {root:?}"
            )));
        }
        Ok(Names { root: root.to_owned() })
    }

    /// What every lock's claims begin with.
    pub(crate) fn locks(&self) -> String {
        format!("{}/l/", self.root)
    }

    /// What the claims of a key begin with, in the order of whose creation they are granted.
    pub(crate) fn lock(&self, key: &LockKey) -> String {
        format!("{}/l/{}/", self.root, key.encoded())
    }

    /// The key of which this is a claim.
    pub(crate) fn key_of(&self, claim: &str) -> Option<LockKey> {
        let (name, _claim) = claim.strip_prefix(&self.root)?.strip_prefix("/l/")?.split_once('/')?;
        LockKey::decode(name)
    }

    /// Whose a session is.
    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}/s/{id}", self.root)
    }

    /// What says that no earlier copy of a claim under this name may take effect any more.
    pub(crate) fn withdrawn(&self, claim: &str) -> String {
        let name = claim.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix("/l/")).unwrap_or(claim);
        format!("{}/t/{name}", self.root)
    }

    /// Where those who wait tell this session that they wait for what it holds.
    pub(crate) fn wanted(&self, id: SessionId) -> String {
        format!("{}/w/{id}", self.root)
    }
}

/// The name of a claim under its lock's: whose it is, and which of several of one session.
pub(crate) fn claim(lock: &str, lease: i64, slot: impl fmt::Display) -> String {
    format!("{lock}{lease:016x}-{slot}")
}

/// The companion of a claim, which keeps its place for the rest of a time that was asked. It may outlive the claim, and its name
/// is not used again.
pub(crate) fn companion(claim: &str, ticket: Ticket) -> String {
    format!("{claim}~{:x}", ticket.0)
}

/// The name of the claim whose companion this is, or that this is.
pub(crate) fn without_companion(name: &str) -> &str {
    name.rsplit_once('~').map_or(name, |(claim, _)| claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        for wrong in ["", "a b", "a/", "ä", "*", &"x".repeat(201)] {
            assert!(Names::new(wrong).is_err(), "{wrong:?}");
        }
        let names = Names::new("prod/fencepost").unwrap();
        let key = LockKey::new("a/b~").unwrap();
        let claim = claim(&names.lock(&key), 255, 3);
        assert_eq!(claim, "prod/fencepost/l/a%2Fb%7E/00000000000000ff-3");
        assert_eq!(names.key_of(&claim), Some(key.clone()));
        assert_eq!(names.key_of(&companion(&claim, Ticket(10))), Some(key));
        assert_eq!(companion(&claim, Ticket(10)), format!("{claim}~a"));
        assert_eq!(without_companion(&companion(&claim, Ticket(10))), claim);
        assert_eq!(without_companion(&claim), claim);
        assert_eq!(names.withdrawn(&claim), "prod/fencepost/t/a%2Fb%7E/00000000000000ff-3");
        assert_eq!(names.key_of("prod/other/l/k/1"), None);
    }
}
