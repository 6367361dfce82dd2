//! [`Entry`]: one claim as it stands in its lock's queue. All that decides is in the name of its node, so that one list of names
//! says how the lock stands.

use std::time::Duration;

use lock_core::queue;
use lock_core::{Claim, Error, ErrorKind, HolderInfo, Mode, Permit, Result, SessionId, Ticket};

/// The claims of a lock, in the order of their making.
pub(crate) type Queue = queue::Queue<Entry>;

/// So many of a lock's numbers are not used.
const LAST: i64 = 1 << 20;

/// A claim in its lock's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its node's name, within the lock's.
    pub(crate) name: String,
    pub(crate) session: SessionId,
    pub(crate) ticket: Ticket,
    pub(crate) mode: Mode,
    pub(crate) permit: Permit,
    /// The number that the store has put behind its name.
    sequence: i64,
}

impl queue::Entry for Entry {
    fn session(&self) -> SessionId {
        self.session
    }

    fn permit(&self) -> Permit {
        self.permit
    }
}

/// What the name of a claim's node begins with; the store adds a number.
pub(crate) fn name(session: SessionId, claim: &Claim) -> String {
    let (ticket, mode) = (claim.ticket.0, claim.mode.encoded().replace('/', "_"));
    format!("{session}.{ticket:x}.{mode}.{}.{}-", claim.permit.weight(), claim.permit.capacity())
}

impl Entry {
    /// `None` for what this library does not write.
    pub(crate) fn read(name: &str) -> Option<Entry> {
        let (words, sequence) = name.split_once('-')?;
        let words: Vec<_> = words.split('.').collect();
        let [session, ticket, mode, weight, capacity] = words[..] else { return None };
        Some(Entry {
            name: name.to_owned(),
            session: session.parse().ok()?,
            ticket: Ticket(u64::from_str_radix(ticket, 16).ok()?),
            mode: Mode::decode(&mode.replace('_', "/"))?,
            permit: Permit::new(weight.parse().ok()?, capacity.parse().ok()?).ok()?,
            sequence: sequence.parse().ok()?,
        })
    }
}

/// What a session's own node has as its data: how long it lives without its client, and whose it is.
pub(crate) fn written_of_session(ttl: Duration, info: &HolderInfo) -> Vec<u8> {
    format!("{} {}", ttl.as_millis(), info.encoded()).into_bytes()
}

/// What was [written](written_of_session), if it is that.
pub(crate) fn read_of_session(data: &[u8]) -> Option<(Duration, Option<HolderInfo>)> {
    let (millis, info) = std::str::from_utf8(data).ok()?.split_once(' ')?;
    Some((Duration::from_millis(millis.parse().ok()?), HolderInfo::decode(info)))
}

/// The queue of the lock at this path, of the names of its claims in any order.
///
/// # Errors
/// Something else lies among them.
pub(crate) fn queue(lock: &str, names: &[String]) -> Result<Queue> {
    let read = |name: &String| {
        Entry::read(name).ok_or_else(|| {
            let path = format!("{lock}/{name}");
            let message = format!(
                "{path:?} is not what this library writes: does something else write under this root?"
            );
            Error::new(ErrorKind::Damaged, message)
        })
    };
    let mut entries = names.iter().map(read).collect::<Result<Vec<_>>>()?;
    // Those that have gone over are behind all others, and are being taken back.
    entries.sort_by_key(|entry| (entry.sequence < 0, entry.sequence));
    Ok(Queue::new(entries))
}

impl Entry {
    /// Whether the numbers of its lock are near their end: servers give the last one again and again, and others besides, so that
    /// they say nothing of the order any more. A lock that has been idle for a minute begins anew.
    pub(crate) fn is_near_the_end(&self) -> bool {
        self.sequence < 0 || (i64::from(i32::MAX) - LAST..=i64::from(i32::MAX)).contains(&self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::LockKey;

    fn of(number: u64, sequence: &str) -> String {
        let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(number), Mode::Exclusive, Permit::MUTEX);
        name(SessionId::from_u128(7), &claim) + sequence
    }

    #[test]
    fn what_is_written_reads_back() {
        let permits = Mode::Permits { held: 2, of: 5 };
        for (mode, permit) in [
            (Mode::Exclusive, Permit::MUTEX),
            (Mode::Shared, Permit::READER),
            (permits, Permit::new(2, 5).unwrap()),
        ] {
            let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(31), mode, permit);
            let name = name(SessionId::from_u128(7), &claim) + "0000000003";
            assert!(!name.contains('/'), "{name}");
            let read = Entry::read(&name).unwrap();
            assert_eq!((read.session, read.ticket), (SessionId::from_u128(7), Ticket(31)));
            assert_eq!((read.mode, read.permit, read.sequence), (mode, permit, 3));
        }
        for wrong in ["", "lock-0000000001", &of(1, ""), &of(1, "x"), &of(1, "1").replace(".1.1-", ".2.1-")] {
            assert_eq!(Entry::read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_session_says_for_how_long_and_whose_it_is() {
        let (ttl, info) = (Duration::from_millis(4_500), HolderInfo::new(7));
        let (read_ttl, read_info) = read_of_session(&written_of_session(ttl, &info)).unwrap();
        assert_eq!((read_ttl, read_info.map(|info| info.pid())), (ttl, Some(7)));
        assert!(read_of_session(b"").is_none() && read_of_session(b"x y").is_none());
    }

    #[test]
    fn the_order_is_that_of_the_making() {
        let mut names: Vec<_> = ["0000000008", "0000000009", "0000000010", "0000000002147483648"]
            .iter()
            .zip(1..)
            .map(|(number, ticket)| of(ticket, number))
            .collect();
        for _ in 0..names.len() {
            names.rotate_left(1);
            let queue = queue("/l", &names).unwrap();
            let tickets: Vec<_> = queue.entries().iter().map(|entry| entry.ticket.0).collect();
            assert_eq!(tickets, [1, 2, 3, 4]);
        }
        assert_eq!(queue("/l", &["lock-1".to_owned()]).unwrap_err().kind(), &ErrorKind::Damaged);
    }

    #[test]
    fn numbers_near_their_end_are_known() {
        for (number, near) in [
            ("0000000000", false),
            ("2146435070", false),
            ("2147483647", true),
            ("-2147483648", true),
            // A later ZooKeeper counts with more bits.
            ("0000000002147483648", false),
        ] {
            assert_eq!(Entry::read(&of(1, number)).unwrap().is_near_the_end(), near, "{number}");
        }
    }
}
