//! The format of every file of this store: a header, and two slots of which the newest valid one counts.
//!
//! A writer overwrites the older slot with one `pwrite`. A kill can tear that write: the checksum then fails, and the
//! other slot still holds the generation before. Falling back to it is safe, because a writer tells nobody of the new
//! generation before its write has returned: only the dead knew it.

use std::hash::{BuildHasher, Hasher, RandomState};

const MAGIC: &[u8; 8] = b"fencpst1";
const FIXED: usize = 30;
const SLOT_HEADER: usize = 16;

/// What a file is for. It stands in the header, so that no file is taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Key = b'k',
    Session = b's',
    Store = b'e',
}

/// A file's header: it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) len: usize,
    pub(crate) slot_size: usize,
    /// A random number of this file's: a file that was removed and made anew has another.
    pub(crate) incarnation: u64,
    pub(crate) name: String,
}

/// A slot that holds a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot<'a> {
    pub(crate) index: usize,
    pub(crate) generation: u64,
    pub(crate) bytes: &'a [u8],
}

/// What the two slots hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots<'a> {
    pub(crate) newest: Option<Slot<'a>>,
    /// Each slot is valid, or was never written.
    pub(crate) whole: bool,
}

impl Header {
    /// A new file's header, with slots that hold records of at least this size.
    pub(crate) fn new(kind: Kind, name: &str, record: usize) -> Header {
        let slot_size = (record + SLOT_HEADER).max(512).next_power_of_two();
        let len = (FIXED + name.len() + 4).next_multiple_of(64);
        // Every `RandomState` has other keys; the top bit is left to versions of absent records.
        let incarnation = RandomState::new().build_hasher().finish() >> 1;
        Header { kind, len, slot_size, incarnation, name: name.to_owned() }
    }

    /// The largest record that a slot takes.
    pub(crate) fn room(&self) -> usize {
        self.slot_size - SLOT_HEADER
    }

    /// The size of the whole file.
    pub(crate) fn file_len(&self) -> usize {
        self.len + 2 * self.slot_size
    }

    /// Where a slot begins in the file.
    pub(crate) fn offset(&self, index: usize) -> u64 {
        (self.len + index * self.slot_size) as u64
    }

    /// A whole new file with one record.
    pub(crate) fn file(&self, generation: u64, record: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.file_len());
        out.extend(MAGIC);
        out.extend((self.len as u32).to_be_bytes());
        out.extend((self.slot_size as u32).to_be_bytes());
        out.extend(self.incarnation.to_be_bytes());
        out.extend([self.kind as u8, 0, 0, 0]);
        out.extend((self.name.len() as u16).to_be_bytes());
        out.extend(self.name.as_bytes());
        out.resize(self.len - 4, 0);
        let check = crc32fast::hash(&out);
        out.extend(check.to_be_bytes());
        out.extend(self.slot(generation, record));
        // Both slots take their room now: a full disk is noticed here, and not by a release.
        out.resize(self.file_len(), 0);
        out
    }

    /// A slot's bytes, as far as they matter.
    pub(crate) fn slot(&self, generation: u64, record: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT_HEADER + record.len());
        let len = record.len() as u32;
        out.extend(generation.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(self.check(generation, len, record).to_be_bytes());
        out.extend(record);
        out
    }

    /// The header of a file that begins so; `None` when this version did not write it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Header> {
        let fixed = bytes.get(..FIXED)?;
        if &fixed[..8] != MAGIC {
            return None;
        }
        let len = u32::from_be_bytes(array(fixed, 8)?) as usize;
        let slot_size = u32::from_be_bytes(array(fixed, 12)?) as usize;
        let incarnation = u64::from_be_bytes(array(fixed, 16)?);
        let kind = match fixed[24] {
            b'k' => Kind::Key,
            b's' => Kind::Session,
            b'e' => Kind::Store,
            _ => return None,
        };
        let name_len = usize::from(u16::from_be_bytes(array(fixed, 28)?));
        let header = bytes.get(..len).filter(|_| len >= FIXED + name_len + 4 && slot_size > SLOT_HEADER)?;
        let (covered, check) = header.split_at(len - 4);
        if crc32fast::hash(covered).to_be_bytes() != check {
            return None;
        }
        let name = std::str::from_utf8(&header[FIXED..FIXED + name_len]).ok()?.to_owned();
        Some(Header { kind, len, slot_size, incarnation, name })
    }

    /// What the part of the file after the header holds. It may be shorter than it should be.
    pub(crate) fn slots<'a>(&self, bytes: &'a [u8]) -> Slots<'a> {
        let mut slots = Slots { newest: None, whole: true };
        for index in 0..2 {
            let Some(bytes) = bytes.get(index * self.slot_size..(index + 1) * self.slot_size) else {
                slots.whole = false;
                continue;
            };
            let never_written = bytes[..SLOT_HEADER].iter().all(|&byte| byte == 0);
            match self.parse_slot(index, bytes) {
                Some(slot) if slots.newest.is_none_or(|other| other.generation < slot.generation) => {
                    slots.newest = Some(slot);
                }
                Some(_) => {}
                None => slots.whole &= never_written,
            }
        }
        slots
    }

    fn parse_slot<'a>(&self, index: usize, bytes: &'a [u8]) -> Option<Slot<'a>> {
        let generation = u64::from_be_bytes(array(bytes, 0)?);
        let len = u32::from_be_bytes(array(bytes, 8)?);
        let check = u32::from_be_bytes(array(bytes, 12)?);
        let record = bytes[SLOT_HEADER..].get(..len as usize)?;
        let valid = generation > 0 && self.check(generation, len, record) == check;
        valid.then_some(Slot { index, generation, bytes: record })
    }

    fn check(&self, generation: u64, len: u32, record: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.incarnation.to_be_bytes());
        hasher.update(&generation.to_be_bytes());
        hasher.update(&len.to_be_bytes());
        hasher.update(record);
        hasher.finalize()
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back() {
        let header = Header::new(Kind::Key, "a%2Fb", 3);
        let file = header.file(7, b"abc");
        assert_eq!(file.len(), header.file_len());
        assert_eq!(Header::parse(&file).as_ref(), Some(&header));
        let slots = header.slots(&file[header.len..]);
        assert_eq!(slots.newest, Some(Slot { index: 0, generation: 7, bytes: b"abc" }));
        assert!(slots.whole);
    }

    #[test]
    fn every_prefix_of_a_write_leaves_the_generation_before() {
        let header = Header::new(Kind::Key, "k", 300);
        let mut file = header.file(1, &[1; 300]);
        let at = header.offset(1) as usize;
        file[at..at + 316].copy_from_slice(&header.slot(2, &[2; 300]));
        let write = header.slot(3, &[3; 299]);
        let target = header.offset(0) as usize;
        for torn in 0..write.len() {
            let mut file = file.clone();
            file[target..target + torn].copy_from_slice(&write[..torn]);
            let slots = header.slots(&file[header.len..]);
            assert_eq!(slots.newest.map(|slot| slot.generation), Some(2), "{torn}");
        }
        file[target..target + write.len()].copy_from_slice(&write);
        assert_eq!(header.slots(&file[header.len..]).newest.map(|slot| slot.generation), Some(3));
    }

    #[test]
    fn every_prefix_of_a_file_has_no_header_or_is_not_whole() {
        let header = Header::new(Kind::Session, "s", 10);
        let file = header.file(1, &[9; 10]);
        for len in 0..file.len() {
            if let Some(header) = Header::parse(&file[..len]) {
                assert!(!header.slots(&file[header.len..len]).whole, "{len}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let header = Header::new(Kind::Key, "key", 20);
        let file = header.file(1, &[5; 20]);
        for bit in 0..(header.len + SLOT_HEADER + 20) * 8 {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            let read =
                Header::parse(&file).and_then(|h| h.slots(&file[h.len..]).newest.map(|slot| slot.index));
            assert_eq!(read, None, "bit {bit}");
        }
    }
}
