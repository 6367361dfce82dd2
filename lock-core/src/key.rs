//! What a lock is called: [`LockKey`], and the [`Prefix`] that keeps one client's keys apart from another's.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The name of one lock: UTF-8, 1 to 512 bytes, any characters at all.
///
/// Two different keys never collide, in any store: stores that cannot take every byte in a name use
/// [`LockKey::encoded`].
///
/// ```
/// use lock_core::LockKey;
///
/// let key = LockKey::new("orders/4711")?;
/// assert_eq!(key.as_str(), "orders/4711");
/// assert!(LockKey::new("").is_err());
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockKey {
    prefix: Option<Prefix>,
    name: Arc<str>,
}

impl LockKey {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 512;

    /// A key from its name.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the name is empty or longer than
    /// [`LockKey::MAX_LEN`] bytes.
    pub fn new(name: impl AsRef<str>) -> Result<LockKey> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::MAX_LEN {
            return Err(Error::invalid(format!(
                "a lock's key has 1 to {} bytes, this one has {}",
                Self::MAX_LEN,
                name.len()
            )));
        }
        Ok(LockKey { prefix: None, name: name.into() })
    }

    /// Joins parts so that no two different lists of parts give the same key.
    ///
    /// Parts are joined by `/`; a `/` or `%` inside a part is written `%2F` or `%25`.
    ///
    /// ```
    /// use lock_core::LockKey;
    ///
    /// let a = LockKey::from_parts(["tenant/1", "job"])?;
    /// let b = LockKey::from_parts(["tenant", "1/job"])?;
    /// assert_ne!(a, b);
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`LockKey::new`], for the joined name.
    pub fn from_parts<I>(parts: I) -> Result<LockKey>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut name = String::new();
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                name.push('/');
            }
            for character in part.as_ref().chars() {
                match character {
                    '/' => name.push_str("%2F"),
                    '%' => name.push_str("%25"),
                    other => name.push(other),
                }
            }
        }
        // `[]` and `[""]` would both be the empty name, which `new` refuses; every longer list has a `/`.
        LockKey::new(name)
    }

    /// The name as the application gave it, without the client's prefix.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The prefix under which the client keeps this key in the store.
    pub fn prefix(&self) -> Option<&Prefix> {
        self.prefix.as_ref()
    }

    /// The same name under a prefix: what an engine hands to its backend.
    #[must_use]
    pub fn under(&self, prefix: Option<&Prefix>) -> LockKey {
        LockKey { prefix: prefix.cloned(), name: self.name.clone() }
    }

    /// Prefix and name as one string of ASCII letters, digits, `-`, `_`, `.`, `%` and `@`.
    ///
    /// No two keys share an encoding, and no encoding is `.`, `..` or begins with a dot, so that it can be a
    /// file's or a node's name. Everything else is percent-encoded; `@` stands only after a prefix. It has up to three bytes
    /// for each of key and prefix: where names are shorter than that, as the 255 bytes of most file systems, it has to be
    /// split.
    ///
    /// ```
    /// use lock_core::LockKey;
    ///
    /// assert_eq!(LockKey::new("orders/42")?.encoded(), "orders%2F42");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn encoded(&self) -> String {
        let mut out = String::with_capacity(self.name.len() + 16);
        if let Some(prefix) = &self.prefix {
            percent_encode(prefix.as_str(), &mut out);
            out.push('@');
        }
        percent_encode(&self.name, &mut out);
        out
    }

    /// The key whose [`encoded`](LockKey::encoded) form this is; `None` when it is no key's.
    pub fn decode(encoded: &str) -> Option<LockKey> {
        let (prefix, name) = match encoded.split_once('@') {
            Some((prefix, name)) => (Some(Prefix::new(percent_decode(prefix)?).ok()?), name),
            None => (None, encoded),
        };
        let key = LockKey { prefix, ..LockKey::new(percent_decode(name)?).ok()? };
        // One spelling only, so that two file names can never mean the same key.
        (key.encoded() == encoded).then_some(key)
    }
}

impl fmt::Display for LockKey {
    /// The name, quoted and escaped: keys are hostile input, and end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.name)
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            Some(prefix) => write!(f, "LockKey({:?} under {:?})", &*self.name, prefix.as_str()),
            None => write!(f, "LockKey({:?})", &*self.name),
        }
    }
}

impl TryFrom<&str> for LockKey {
    type Error = Error;

    fn try_from(name: &str) -> Result<LockKey> {
        LockKey::new(name)
    }
}

impl TryFrom<String> for LockKey {
    type Error = Error;

    fn try_from(name: String) -> Result<LockKey> {
        LockKey::new(name)
    }
}

impl TryFrom<&String> for LockKey {
    type Error = Error;

    fn try_from(name: &String) -> Result<LockKey> {
        LockKey::new(name)
    }
}

impl TryFrom<&LockKey> for LockKey {
    type Error = Error;

    fn try_from(key: &LockKey) -> Result<LockKey> {
        Ok(key.clone())
    }
}

/// A client's name space in a store: 1 to 64 bytes of ASCII letters, digits, `-`, `_`, `.`, `/` and `:`.
///
/// The key `b/c` under the prefix `a` and the key `c` under the prefix `a/b` are two locks; so are a key under
/// a prefix and every key of a client without one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The longest prefix, in bytes.
    pub const MAX_LEN: usize = 64;

    /// A prefix from its text.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty, too long or holds another character.
    pub fn new(text: impl AsRef<str>) -> Result<Prefix> {
        let text = text.as_ref();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "a prefix is 1 to {} ASCII letters, digits or any of - _ . / : and this is not: {text:?}",
                Self::MAX_LEN
            )));
        }
        Ok(Prefix(text.into()))
    }

    /// The prefix as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({:?})", &*self.0)
    }
}

fn percent_encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && index > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn length_is_bounded_in_bytes() {
        assert!(LockKey::new("x".repeat(512)).is_ok());
        assert!(LockKey::new("x".repeat(513)).is_err());
        assert!(LockKey::new("ä".repeat(257)).is_err());
        assert!(LockKey::new("").is_err());
    }

    #[test]
    fn a_key_under_a_prefix_is_no_other_prefixs_key() {
        let under = |prefix: &str, name: &str| {
            LockKey::new(name).unwrap().under(Some(&Prefix::new(prefix).unwrap())).encoded()
        };
        assert_ne!(under("a", "b/c"), under("a/b", "c"));
        assert_ne!(under("a", "b"), LockKey::new("a@b").unwrap().encoded());
        assert_ne!(under("a", "b"), LockKey::new("a/b").unwrap().encoded());
    }

    #[test]
    fn encodings_are_no_special_file_names() {
        for name in [".", "..", ".hidden", "a/../b", "\0", "trailing "] {
            let encoded = LockKey::new(name).unwrap().encoded();
            assert!(!encoded.starts_with('.') && !encoded.contains(['/', '\0', ' ']), "{encoded}");
        }
    }

    #[test]
    fn a_second_spelling_is_not_decoded() {
        assert!(LockKey::decode("%61").is_none(), "'a' is spelled without a percent sign");
        assert!(LockKey::decode("a%2fb").is_none(), "hex digits are upper case");
        assert!(LockKey::decode("a%2").is_none());
    }

    proptest! {
        #[test]
        fn encoding_round_trips(name in "\\PC{1,64}", prefix in proptest::option::of("[a-z/:.]{1,8}")) {
            let prefix = prefix.map(|p| Prefix::new(p).unwrap());
            let key = LockKey::new(&name).unwrap().under(prefix.as_ref());
            prop_assert_eq!(LockKey::decode(&key.encoded()), Some(key));
        }

        #[test]
        fn different_parts_are_different_keys(
            a in proptest::collection::vec("[a/%]{0,3}", 1..4),
            b in proptest::collection::vec("[a/%]{0,3}", 1..4),
        ) {
            let (ka, kb) = (LockKey::from_parts(&a), LockKey::from_parts(&b));
            if let (Ok(ka), Ok(kb)) = (ka, kb) {
                prop_assert_eq!(a == b, ka == kb);
            }
        }
    }
}
