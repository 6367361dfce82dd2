//! A few open files, so that a busy key costs no opening; never one for each hold.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::KeyPath;
use crate::slot_file::SlotFile;

const CAPACITY: usize = 128;

/// An open file with the buffer that it is read into.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) file: SlotFile,
    pub(super) buffer: Vec<u8>,
}

/// Files that nobody is using at this instant.
///
/// Whoever uses one takes it out: a lock belongs to the open file, so that two tasks of one process exclude each other
/// only on two of them.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Files>);

#[derive(Debug, Default)]
struct Files {
    files: HashMap<String, (KeyFile, u64)>,
    uses: u64,
}

impl Cache {
    pub(super) fn take(&self, path: &KeyPath) -> Option<KeyFile> {
        self.files().files.remove(path.as_str()).map(|(file, _)| file)
    }

    /// Puts a file back; the one that was not used for longest goes when there are too many.
    pub(super) fn put(&self, path: &KeyPath, file: KeyFile) {
        // Closed outside the lock.
        let mut surplus = None;
        let mut files = self.files();
        files.uses += 1;
        let uses = files.uses;
        let replaced = files.files.insert(path.as_str().to_owned(), (file, uses));
        if files.files.len() > CAPACITY {
            surplus = files.remove_oldest();
        }
        drop(files);
        drop((replaced, surplus));
    }

    /// Closes the file that was not used for longest, where descriptors are short; `false` when there is none.
    pub(super) fn give_up_one(&self) -> bool {
        let oldest = self.files().remove_oldest();
        oldest.is_some()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn remove_oldest(&mut self) -> Option<(KeyFile, u64)> {
        let path = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())?;
        self.files.remove(&path)
    }
}
