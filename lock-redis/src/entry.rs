//! [`Held`] and the texts of records: what `record.lua` writes, written and read here.

use std::time::Duration;

use lock_core::{Claim, Error, FencingToken, Mode, Note, Permit, Result, SessionId, Term, Ticket};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::kept::Kept;

/// A hold that lives with its session and nothing else: the kind whose record can be foreseen.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) token: u64,
    permit: Permit,
    mode: Mode,
    note: Option<Note>,
}

impl Held {
    /// How a claim will hold; `None` where that depends on the server's clock, and behind the largest token.
    pub(crate) fn foreseen(claim: &Claim, token: u64) -> Option<Held> {
        let plain = claim.term == Term::default() && token <= FencingToken::MAX.get();
        plain.then(|| Held { token, permit: claim.permit, mode: claim.mode, note: claim.note.clone() })
    }

    /// The record of a key with this holder, and nobody else.
    pub(crate) fn record(&self, session: SessionId, ticket: Ticket) -> String {
        let Held { token, permit, .. } = self;
        let rest = rest(self.mode, self.note.as_ref());
        format!(
            "{token} {} 0;{session} {} {token} {} s 0 {rest}",
            permit.capacity(),
            ticket.0,
            permit.weight()
        )
    }
}

/// Mode and note, as the record keeps them.
fn rest(mode: Mode, note: Option<&Note>) -> String {
    let mut rest = mode.encoded();
    rest.push(' ');
    rest.extend(utf8_percent_encode(note.map_or("", Note::as_str), NON_ALPHANUMERIC));
    rest
}

/// A claim, as `claim.lua` reads it.
///
/// # Errors
/// A term of a kind that the scripts do not know.
pub(crate) fn asked(claim: &Claim, name: &str, kept: Kept) -> Result<String> {
    let (kind, time) = match claim.term {
        Term::Fixed(time) => ('f', micros(time)),
        Term::Session { at_least } => ('s', micros(at_least)),
        other => {
            return Err(Error::unsupported(format!("the store in Redis knows no term such as {other:?}")));
        }
    };
    let Claim { ticket, permit, wait, mode, note, .. } = claim;
    let (keep, wait) = (kept.whole, u8::from(*wait));
    let (weight, capacity) = (permit.weight(), permit.capacity());
    let rest = rest(*mode, note.as_ref());
    Ok(format!("{keep} {} {weight} {capacity} {wait} {kind} {time};{rest};{name}", ticket.0))
}

/// What is given back, as `release.lua` reads it.
pub(crate) fn returned(ticket: Ticket, uncertain: bool, name: &str, kept: Kept) -> String {
    format!("{} {} {};{name}", kept.whole, ticket.0, u8::from(uncertain))
}

/// One holder of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HolderEntry {
    pub(crate) session: SessionId,
    pub(crate) ticket: Ticket,
    pub(crate) token: FencingToken,
    pub(crate) kind: Kind,
    pub(crate) until: u64,
    pub(crate) mode: Mode,
    pub(crate) note: Option<Note>,
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Session,
    Fixed,
    Returned,
}

/// A record, read. `None` for a text that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) fence: u64,
    pub(crate) capacity: Option<u32>,
    pub(crate) holders: Vec<HolderEntry>,
}

impl Record {
    pub(crate) fn read(text: &str) -> Option<Record> {
        let mut parts = text.split(';');
        let mut head = parts.next()?.split(' ');
        let fence = head.next()?.parse().ok()?;
        let capacity = head.next().map(str::parse).transpose().ok()?;
        let holders = parts.map(holder).collect::<Option<Vec<_>>>()?;
        Some(Record { fence, capacity, holders })
    }

    /// Whether this text is the record of a key that is held or waited for, as far as it says.
    pub(crate) fn is_in_use(text: &str) -> bool {
        text.contains(' ')
    }
}

/// What a waiter waits for, of which only this is shown.
pub(crate) fn waiter(text: &str) -> Option<(Mode, Option<Note>)> {
    let mut words = text.split(' ').skip(3);
    Some((Mode::decode(words.next()?)?, note(words.next()?)?))
}

/// `SESSION TICKET`.
pub(crate) fn claim_id(text: &str) -> Option<(SessionId, Ticket)> {
    let (session, ticket) = text.split_once(' ')?;
    Some((session.parse().ok()?, Ticket(ticket.parse().ok()?)))
}

fn holder(text: &str) -> Option<HolderEntry> {
    let words: Vec<&str> = text.split(' ').collect();
    let [session, ticket, token, _weight, kind, until, mode, words] = words[..] else { return None };
    Some(HolderEntry {
        session: session.parse().ok()?,
        ticket: Ticket(ticket.parse().ok()?),
        token: FencingToken::new(token.parse().ok()?).ok()?,
        kind: match kind {
            "s" => Kind::Session,
            "f" => Kind::Fixed,
            "r" => Kind::Returned,
            _ => return None,
        },
        until: until.parse().ok()?,
        mode: Mode::decode(mode)?,
        note: note(words)?,
    })
}

fn note(encoded: &str) -> Option<Option<Note>> {
    let text = percent_decode_str(encoded).decode_utf8().ok()?;
    if text.is_empty() { Some(None) } else { Note::new(text).ok().map(Some) }
}

/// Rounded up: nobody holds for less than was asked. Bounded, so that instants stay exact in a script.
fn micros(time: Duration) -> u64 {
    const CENTURY: u128 = 100 * 366 * 24 * 3600 * 1_000_000;
    u64::try_from(time.as_nanos().div_ceil(1000).min(CENTURY)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::LockKey;

    #[test]
    fn what_is_foreseen_reads_back() {
        let session = SessionId::from_u128(7);
        let note = Note::new("a; b c%").unwrap();
        let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(3), Mode::Shared, Permit::READER)
            .note(Some(note.clone()));
        let held = Held::foreseen(&claim, 99).unwrap();
        let record = Record::read(&held.record(session, claim.ticket)).unwrap();
        let token = FencingToken::new(99).unwrap();
        let holder = HolderEntry {
            session,
            ticket: Ticket(3),
            token,
            kind: Kind::Session,
            until: 0,
            mode: Mode::Shared,
            note: Some(note),
        };
        assert_eq!(record, Record { fence: 99, capacity: Some(Permit::WHOLE), holders: vec![holder] });
        assert_eq!(Record::read("99"), Some(Record { fence: 99, capacity: None, holders: vec![] }));
        for wrong in
            ["", "x", "9 x", "9 1 0;", "9 1 0;a b", &held.record(session, Ticket(3)).replace(" s ", " q ")]
        {
            assert_eq!(Record::read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_depends_on_the_clock_is_not_foreseen() {
        let claim = Claim::new(LockKey::new("k").unwrap(), Ticket(3), Mode::Exclusive, Permit::MUTEX);
        let at_least = Term::Session { at_least: Duration::from_secs(1) };
        assert!(Held::foreseen(&claim.clone().term(at_least), 1).is_none());
        assert!(Held::foreseen(&claim.clone().term(Term::Fixed(Duration::from_nanos(1))), 1).is_none());
        let claim = claim.term(Term::Fixed(Duration::from_nanos(1)));
        let kept = Kept::new(Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!(asked(&claim, "k", kept).unwrap(), "21000 3 1 1 0 f 1;x ;k");
    }
}
