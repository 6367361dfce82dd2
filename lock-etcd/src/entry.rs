//! [`Entry`]: one claim as it stands in the store, written and read.

use std::time::Duration;

use lock_core::{Claim, HolderInfo, Mode, Note, Permit, SessionId, Term, Ticket};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::names;

/// A claim in its lock's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name in the store.
    pub(crate) name: String,
    /// When it was made, or the claim whose companion it is: its place, and its token.
    pub(crate) revision: i64,
    /// With whose end it ends.
    pub(crate) lease: i64,
    pub(crate) session: SessionId,
    pub(crate) ticket: Ticket,
    pub(crate) permit: Permit,
    pub(crate) mode: Mode,
    pub(crate) kind: Kind,
    pub(crate) note: Option<Note>,
    pub(crate) info: Option<HolderInfo>,
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With its session.
    Session,
    /// With its session, and not before a time that its companion keeps.
    AtLeast,
    /// When its time is over.
    Fixed,
    /// It was given back, or its session has died: the companion keeps its place.
    Kept,
}

/// What a claim's key has as its value.
pub(crate) fn value(session: SessionId, claim: &Claim, info: &HolderInfo) -> String {
    let kind = match claim.term {
        Term::Fixed(_) => "f",
        Term::Session { at_least } if at_least > Duration::ZERO => "a",
        _ => "s",
    };
    line(session, claim, info, kind)
}

/// And what its companion has: the revision at which the claim was made, unless both are made in one step.
pub(crate) fn companions_value(
    session: SessionId,
    claim: &Claim,
    info: &HolderInfo,
    made_at: Option<i64>,
) -> String {
    let kind = made_at.map_or_else(|| "k".to_owned(), |revision| format!("k{revision}"));
    line(session, claim, info, &kind)
}

fn line(session: SessionId, claim: &Claim, info: &HolderInfo, kind: &str) -> String {
    let (weight, capacity) = (claim.permit.weight(), claim.permit.capacity());
    let note = utf8_percent_encode(claim.note.as_ref().map_or("", Note::as_str), NON_ALPHANUMERIC);
    let (ticket, mode, info) = (claim.ticket.0, claim.mode.encoded(), info.encoded());
    format!("{session} {ticket} {weight} {capacity} {kind} {mode} {note} {info}")
}

impl Entry {
    /// The name of the claim, also where this is only what is left of it.
    pub(crate) fn claim(&self) -> &str {
        names::without_companion(&self.name)
    }

    /// `None` for what this library does not write.
    pub(crate) fn read(name: &str, value: &str, revision: i64, lease: i64) -> Option<Entry> {
        let words: Vec<&str> = value.splitn(8, ' ').collect();
        let [session, ticket, weight, capacity, kind, mode, words, info] = words[..] else { return None };
        let note = percent_decode_str(words).decode_utf8().ok()?;
        let (kind, revision) = match kind {
            "s" => (Kind::Session, revision),
            "a" => (Kind::AtLeast, revision),
            "f" => (Kind::Fixed, revision),
            "k" => (Kind::Kept, revision),
            later => (Kind::Kept, later.strip_prefix('k')?.parse().ok()?),
        };
        Some(Entry {
            name: name.to_owned(),
            revision,
            lease,
            session: session.parse().ok()?,
            ticket: Ticket(ticket.parse().ok()?),
            permit: Permit::new(weight.parse().ok()?, capacity.parse().ok()?).ok()?,
            mode: Mode::decode(mode)?,
            kind,
            info: HolderInfo::decode(info),
            note: if note.is_empty() { None } else { Some(Note::new(note).ok()?) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::LockKey;

    #[test]
    fn what_is_written_reads_back() {
        let (session, note) = (SessionId::from_u128(7), Note::new("a; b c%").unwrap());
        let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(3), Mode::Shared, Permit::READER)
            .note(Some(note.clone()));
        let entry = Entry::read("r/l/k/1-0", &value(session, &claim, &HolderInfo::new(1)), 99, 1).unwrap();
        assert_eq!((entry.session, entry.ticket, entry.mode), (session, Ticket(3), Mode::Shared));
        assert_eq!((entry.permit, entry.note, entry.kind), (Permit::READER, Some(note), Kind::Session));
        let fixed = claim.clone().term(Term::Fixed(Duration::from_secs(1)));
        assert_eq!(
            Entry::read("n", &value(session, &fixed, &HolderInfo::new(1)), 1, 1).unwrap().kind,
            Kind::Fixed
        );
        let at_least = claim.term(Term::Session { at_least: Duration::from_secs(1) });
        assert_eq!(
            Entry::read("n", &value(session, &at_least, &HolderInfo::new(1)), 1, 1).unwrap().kind,
            Kind::AtLeast
        );
        for (made_at, revision) in [(None, 9), (Some(5), 5)] {
            let kept = companions_value(session, &at_least, &HolderInfo::new(1), made_at);
            let read = Entry::read("n~1", &kept, 9, 1).unwrap();
            assert_eq!((read.kind, read.revision), (Kind::Kept, revision));
        }
        for wrong in
            ["", "x", "a b c d e f g", &value(session, &at_least, &HolderInfo::new(1)).replace(" a ", " q ")]
        {
            assert_eq!(Entry::read("n", wrong, 1, 1), None, "{wrong:?}");
        }
    }
}
