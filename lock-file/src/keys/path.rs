//! Where a key's file lies.

use lock_core::LockKey;

/// No component of a path may be longer than 255 bytes.
const LONGEST: usize = 200;
/// Ends the name of a directory and begins that of whatever is in it. No encoded key has it: so a directory is never
/// another key's file, and no component is `.` or `..`.
const MARK: char = '+';

/// A key's path below `keys/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyPath {
    encoded: String,
    path: String,
}

impl KeyPath {
    pub(crate) fn of(key: &LockKey) -> KeyPath {
        KeyPath::of_encoded(key.encoded())
    }

    pub(crate) fn of_encoded(encoded: String) -> KeyPath {
        let shard = crc32fast::hash(encoded.as_bytes()) as u8;
        let mut path = String::with_capacity(encoded.len() + 3 * (encoded.len() / LONGEST) + 3);
        path.extend([hex_digit(shard >> 4), hex_digit(shard & 15), '/']);
        let mut rest = encoded.as_str();
        while let Some((chunk, after)) = rest.split_at_checked(LONGEST).filter(|(_, after)| !after.is_empty())
        {
            path.extend([chunk, "+/+"]);
            rest = after;
        }
        path.push_str(rest);
        KeyPath { encoded, path }
    }

    /// The key, as it stands in the file's header.
    pub(crate) fn encoded(&self) -> &str {
        &self.encoded
    }

    /// The path below `keys/`.
    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// The first component.
    pub(crate) fn shard(&self) -> &str {
        &self.path[..2]
    }

    /// The directories below the shard, outermost first.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &str> {
        self.path.match_indices("+/").map(|(at, _)| &self.path[..=at])
    }
}

/// The name of one of the 256 directories that share the keys among them.
pub(crate) fn shard_name(number: u8) -> String {
    [hex_digit(number >> 4), hex_digit(number & 15)].iter().collect()
}

fn hex_digit(number: u8) -> char {
    char::from_digit(number.into(), 16).unwrap_or('0')
}

/// Whether an entry is a directory of long keys.
pub(crate) fn is_directory(name: &str) -> bool {
    name.ends_with(MARK)
}

/// An encoded key from the components below its shard.
pub(crate) fn join(components: &[&str]) -> String {
    components.iter().map(|component| component.trim_matches(MARK)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_key_is_split() {
        let path = KeyPath::of(&LockKey::new("ä".repeat(256)).unwrap());
        assert!(path.as_str().split('/').all(|component| component.len() <= 255));
        assert_eq!(path.directories().count(), 7);
        let first = path.directories().next().unwrap();
        assert!(first.starts_with(path.shard()) && first.ends_with('+'), "{first}");
    }

    #[test]
    fn no_component_is_special() {
        for tail in [".", "..", "...", ".a"] {
            let path = KeyPath::of(&LockKey::new(format!("{}{tail}", "x".repeat(200))).unwrap());
            assert!(path.as_str().split('/').all(|component| !component.starts_with('.')), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn components_lead_back(name in "[a-zA-Z.%+/ ]{1,512}") {
            let key = LockKey::new(&name).unwrap();
            let path = KeyPath::of(&key);
            let components: Vec<_> = path.as_str().split('/').skip(1).collect();
            prop_assert_eq!(LockKey::decode(&join(&components)), Some(key));
            let (last, directories) = components.split_last().unwrap();
            prop_assert!(!is_directory(last));
            prop_assert!(directories.iter().all(|name| is_directory(name)));
        }
    }
}
