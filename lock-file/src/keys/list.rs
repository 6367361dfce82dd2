//! Which keys have a record.

use std::os::fd::AsFd;

use lock_core::{Cursor, LockKey, Page, Query, Result};
use rustix::fs::Dir;
use rustix::io::Errno;

use super::{Keys, path};
use crate::directory::open_dir;
use crate::temporary::TEMPORARY;

impl Keys {
    /// Keys in the order of their shards, and of their names within one.
    pub(crate) fn list(&self, query: &Query) -> Result<Page> {
        let after = query.after.as_ref().map(Cursor::as_str).unwrap_or_default();
        let (first, after) = after.split_once('/').unwrap_or(("", after));
        let mut keys = Vec::new();
        for number in 0..=u8::MAX {
            let shard = path::shard_name(number);
            if *shard < *first {
                continue;
            }
            for name in self.names(&shard)? {
                if shard == first && *name <= *after {
                    continue;
                }
                let Some(key) = LockKey::decode(&name).filter(|key| query.matches(key)) else { continue };
                keys.push(key);
                if keys.len() >= query.limit {
                    return Ok(Page::new(keys, Some(Cursor::new(format!("{shard}/{name}")))));
                }
            }
        }
        Ok(Page::new(keys, None))
    }

    /// The encoded keys of a shard, sorted.
    pub(super) fn names(&self, shard: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match open_dir(&self.directory.keys, shard).and_then(|dir| collect(&dir, &mut Vec::new(), &mut names))
        {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.directory.failed(&format!("listing keys/{shard}"), errno)),
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Also below the directories of long keys. What has gone in the meantime is passed over: before it was opened, or while it
/// is read, which then ends as if it were empty.
fn collect(dir: impl AsFd, above: &mut Vec<String>, names: &mut Vec<String>) -> rustix::io::Result<()> {
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." || name.starts_with(TEMPORARY) {
            continue;
        }
        above.push(name.to_owned());
        if path::is_directory(name) {
            match open_dir(&dir, name) {
                Ok(inner) => collect(&inner, above, names)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        } else {
            names.push(path::join(&above.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        above.pop();
    }
    Ok(())
}
