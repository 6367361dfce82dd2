//! [`Names`]: what the store's nodes are called.

use lock_core::{Error, LockKey, Result, SessionId};

/// Every node of one store lies under `/ROOT`.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: String,
}

impl Names {
    pub(crate) fn new(root: &str) -> Result<Names> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        let is_part =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
        let own = root.split('/').next() == Some("zookeeper");
        if root.len() > 200 || own || !root.split('/').all(is_part) {
            return Err(Error::invalid(format!(
                "a root in ZooKeeper is a path of 1 to 200 ASCII letters, digits or any of - _ . : with single slashes between its \
                 parts, none of them . or .. and the first not zookeeper; and this is not: {root:?}"
            )));
        }
        Ok(Names { root: format!("/{root}") })
    }

    /// What has to be there before a session, each behind what it lies in.
    pub(crate) fn directories(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.root.match_indices('/').skip(1).map(|(end, _)| self.root[..end].to_owned()).collect();
        all.push(self.root.clone());
        all.extend(["locks", "sessions", "wanted"].map(|part| format!("{}/{part}", self.root)));
        all
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Where every lock's node is.
    pub(crate) fn locks(&self) -> String {
        format!("{}/locks", self.root)
    }

    /// Where the claims of a key are.
    pub(crate) fn lock(&self, key: &LockKey) -> String {
        format!("{}/locks/{}", self.root, key.encoded())
    }

    /// A session's own node: its data say whose it is, and its version counts the renewals.
    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}/sessions/{id}", self.root)
    }

    /// Where those who wait tell this session that they wait for what it holds.
    pub(crate) fn wanted(&self, id: SessionId) -> String {
        format!("{}/wanted/{id}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        for wrong in [
            "",
            "/",
            "a b",
            "a/",
            "/a",
            "a//b",
            "ä",
            ".",
            "a/..",
            "zookeeper",
            "zookeeper/a",
            &"x".repeat(201),
        ] {
            assert!(Names::new(wrong).is_err(), "{wrong:?}");
        }
        let names = Names::new("prod/fencepost").unwrap();
        assert_eq!(
            names.directories(),
            [
                "/prod",
                "/prod/fencepost",
                "/prod/fencepost/locks",
                "/prod/fencepost/sessions",
                "/prod/fencepost/wanted"
            ]
        );
        assert_eq!(names.lock(&LockKey::new("a/b~").unwrap()), "/prod/fencepost/locks/a%2Fb%7E");
        let id = SessionId::from_u128(255);
        assert_eq!(names.session(id), "/prod/fencepost/sessions/000000000000000000000000000000ff");
    }
}
