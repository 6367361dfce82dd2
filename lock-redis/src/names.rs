//! [`Names`]: what the store's keys and channels are called.

use lock_core::{Error, LockKey, Result, SessionId};

/// Every name of one namespace begins with `NAMESPACE:{00}:`. What stands in braces is the hash tag: it keeps all of a script's
/// keys on one node of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Result<Names> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "a namespace in Redis is 1 to 64 ASCII letters, digits or any of - _ . / : and this is not: {namespace:?}"
            )));
        }
        Ok(Names { root: format!("{namespace}:{{00}}:") })
    }

    /// Where a session lives: as long as this key does.
    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}s:{id}", self.root)
    }

    /// Where a session is told what it did not ask.
    pub(crate) fn events(&self, id: SessionId) -> String {
        format!("{}e:{id}", self.root)
    }

    /// A lock's record, by the key's encoded name.
    pub(crate) fn lock(&self, name: &str) -> String {
        format!("{}l:{name}", self.root)
    }

    /// The key whose record this is.
    pub(crate) fn key_of(&self, lock: &str) -> Option<LockKey> {
        LockKey::decode(lock.strip_prefix(&self.root)?.strip_prefix("l:")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_cannot_break_out_of_its_place() {
        for wrong in ["", "a{b", "a}b", "a*", "a b", "ä", &"x".repeat(65)] {
            assert!(Names::new(wrong).is_err(), "{wrong:?}");
        }
        let names = Names::new("a:b/c").unwrap();
        let key = LockKey::new("{x}:*").unwrap();
        assert_eq!(names.lock(&key.encoded()), "a:b/c:{00}:l:%7Bx%7D%3A%2A");
        assert_eq!(names.key_of(&names.lock(&key.encoded())), Some(key));
        assert_eq!(names.key_of("other:{00}:l:k"), None);
    }
}
