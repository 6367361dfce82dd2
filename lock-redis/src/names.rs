//! [`Names`]: what the store's keys and channels are called.

use lock_core::{Domain, Error, LockKey, Result, SessionId};

/// What all names of a store begin with.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(String);

/// The names of one domain: all begin with `NAMESPACE:{DOMAIN}:`. What stands in braces is the hash tag: it keeps all of a
/// script's keys on one node of a cluster. A single server has one domain, `00`.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
}

impl Namespace {
    pub(crate) fn new(namespace: &str) -> Result<Namespace> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "a namespace in Redis is 1 to 64 ASCII letters, digits or any of - _ . / : and this is not: {namespace:?}"
            )));
        }
        Ok(Namespace(namespace.to_owned()))
    }

    pub(crate) fn of(&self, domain: Domain) -> Names {
        Names { root: format!("{}:{{{:02x}}}:", self.0, domain.0) }
    }

    /// What MATCH finds every lock by whose name begins so, in whichever domain. No character of it means anything to MATCH:
    /// percent-encoded, it has neither * nor ? nor brackets.
    pub(crate) fn pattern(&self, begins: &str) -> String {
        format!("{}:{{??}}:l:{begins}*", self.0)
    }

    /// The key whose record this is.
    pub(crate) fn key_of(&self, lock: &str) -> Option<LockKey> {
        let (_domain, name) = lock.strip_prefix(&self.0)?.strip_prefix(":{")?.split_once("}:l:")?;
        LockKey::decode(name)
    }
}

impl Names {
    /// Where a session lives: as long as this key does.
    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}s:{id}", self.root)
    }

    /// Where a session is told what it did not ask.
    pub(crate) fn events(&self, id: SessionId) -> String {
        format!("{}e:{id}", self.root)
    }

    /// What a session has withdrawn.
    pub(crate) fn withdrawn(&self, id: SessionId) -> String {
        format!("{}t:{id}", self.root)
    }

    /// Who waits for a lock, by the key's encoded name.
    pub(crate) fn queue(&self, name: &str) -> String {
        format!("{}q:{name}", self.root)
    }

    /// What each of them wants.
    pub(crate) fn waiters(&self, name: &str) -> String {
        format!("{}w:{name}", self.root)
    }

    /// A lock's record, by the key's encoded name.
    pub(crate) fn lock(&self, name: &str) -> String {
        format!("{}l:{name}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_cannot_break_out_of_its_place() {
        for wrong in ["", "a{b", "a}b", "a*", "a b", "ä", &"x".repeat(65)] {
            assert!(Namespace::new(wrong).is_err(), "{wrong:?}");
        }
        let namespace = Namespace::new("a:b/c").unwrap();
        let names = namespace.of(Domain(0));
        let key = LockKey::new("{x}:*").unwrap();
        assert_eq!(names.lock(&key.encoded()), "a:b/c:{00}:l:%7Bx%7D%3A%2A");
        assert_eq!(namespace.key_of(&names.lock(&key.encoded())), Some(key.clone()));
        assert_eq!(namespace.key_of(&namespace.of(Domain(255)).lock(&key.encoded())), Some(key));
        assert_eq!(namespace.key_of("other:{00}:l:k"), None);
    }
}
