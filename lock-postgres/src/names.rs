//! Names of keys in the tables: bytes, for no two are the same there and none is forbidden.

use lock_core::{LockKey, Prefix};

/// In no UTF-8 text, so that no key without a prefix looks like one with it.
const BEHIND_A_PREFIX: u8 = 0xff;

/// What a key is called.
pub(crate) fn name(key: &LockKey) -> Vec<u8> {
    let mut name = beginning(key.prefix(), "");
    name.extend_from_slice(key.as_str().as_bytes());
    name
}

/// How the names of all keys begin that begin so.
pub(crate) fn beginning(prefix: Option<&Prefix>, text: &str) -> Vec<u8> {
    let mut name = Vec::new();
    if let Some(prefix) = prefix {
        name.extend_from_slice(prefix.as_str().as_bytes());
        name.push(BEHIND_A_PREFIX);
    }
    name.extend_from_slice(text.as_bytes());
    name
}

/// The first name behind all that begin so; `None` where nothing comes behind them.
pub(crate) fn behind(beginning: &[u8]) -> Option<Vec<u8>> {
    let mut name = beginning.to_vec();
    while let Some(last) = name.pop() {
        if let Some(next) = last.checked_add(1) {
            name.push(next);
            return Some(name);
        }
    }
    None
}

/// The key of a name; `None` for one that no key has.
pub(crate) fn key(name: &[u8]) -> Option<LockKey> {
    let mut parts = name.splitn(2, |byte| *byte == BEHIND_A_PREFIX);
    let first = str::from_utf8(parts.next()?).ok()?;
    match parts.next() {
        None => LockKey::new(first).ok(),
        Some(name) => {
            let prefix = Prefix::new(first).ok()?;
            Some(LockKey::new(str::from_utf8(name).ok()?).ok()?.under(Some(&prefix)))
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 == 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_key() {
        let prefix = Prefix::new("a").unwrap();
        let mut names = Vec::new();
        for text in ["a", "a/b", "\0", "ü", "a\u{fe}"] {
            for key in [LockKey::new(text).unwrap(), LockKey::new(text).unwrap().under(Some(&prefix))] {
                assert_eq!(super::key(&name(&key)), Some(key.clone()));
                assert_eq!(from_hex(&hex(&name(&key))), Some(name(&key)));
                names.push(name(&key));
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn what_is_behind_a_beginning_does_not_begin_so() {
        assert_eq!(behind(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(behind(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(behind(b"\xff"), None);
        assert_eq!(behind(b""), None);
    }
}
