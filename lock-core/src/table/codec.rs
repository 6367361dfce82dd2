//! The one encoding of a record: big-endian numbers, texts behind their length, a version in front.
//!
//! Canonical: one record has one encoding, and whatever decodes encodes to the same bytes again. So replicas of a log
//! can compare hashes.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Holder, Holding, KeyRecord, SessionRecord, Waiter};
use crate::backend::{SessionId, Term, Ticket};
use crate::holder::{HolderInfo, Note};
use crate::mode::Mode;
use crate::token::FencingToken;

const KEY_V1: u8 = 0x4b;
const SESSION_V1: u8 = 0x53;

/// Bytes that are no record of a version that this library reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record of this version: {0}")]
pub struct Malformed(&'static str);

impl KeyRecord {
    /// The record's one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 80 * (self.holders.len() + self.queue.len()));
        out.push(KEY_V1);
        put_u64(&mut out, self.fence);
        put_u64(&mut out, self.now);
        put_u32(&mut out, self.capacity);
        put_len(&mut out, self.holders.len());
        for holder in &self.holders {
            put_claim(&mut out, holder.session, holder.ticket, holder.mode, holder.weight);
            put_u64(&mut out, holder.token.get());
            match holder.holding {
                Holding::Session { at_least_until } => {
                    out.push(0);
                    put_u64(&mut out, at_least_until);
                }
                Holding::Fixed { until, returned } => {
                    out.push(1 + u8::from(returned));
                    put_u64(&mut out, until);
                }
            }
            put_note(&mut out, holder.note.as_ref());
        }
        put_len(&mut out, self.queue.len());
        for waiter in &self.queue {
            put_claim(&mut out, waiter.session, waiter.ticket, waiter.mode, waiter.weight);
            let (tag, time) = match waiter.term {
                Term::Session { at_least } => (0, at_least),
                Term::Fixed(time) => (1, time),
            };
            out.push(tag);
            put_u64(&mut out, time.as_secs());
            put_u32(&mut out, time.subsec_nanos());
            put_note(&mut out, waiter.note.as_ref());
        }
        put_len(&mut out, self.tombstones.len());
        for &(session, ticket) in &self.tombstones {
            out.extend(session.as_u128().to_be_bytes());
            put_u64(&mut out, ticket.0);
        }
        out
    }

    /// The record with this encoding.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`KeyRecord::encode`] did not write.
    pub fn decode(bytes: &[u8]) -> Result<KeyRecord, Malformed> {
        let mut from = Reader(bytes);
        if from.u8()? != KEY_V1 {
            return Err(Malformed("unknown version of a key's record"));
        }
        let (fence, now, capacity) = (from.u64()?, from.u64()?, from.u32()?);
        let mut holders = Vec::new();
        for _ in 0..from.u32()? {
            let (session, ticket, mode, weight) = from.claim()?;
            let token = FencingToken::new(from.u64()?).map_err(|_| Malformed("a token out of bounds"))?;
            let (tag, until) = (from.u8()?, from.u64()?);
            let holding = match tag {
                0 => Holding::Session { at_least_until: until },
                1 | 2 => Holding::Fixed { until, returned: tag == 2 },
                _ => return Err(Malformed("an unknown kind of hold")),
            };
            holders.push(Holder { session, ticket, token, mode, weight, holding, note: from.note()? });
        }
        let mut queue = VecDeque::new();
        for _ in 0..from.u32()? {
            let (session, ticket, mode, weight) = from.claim()?;
            let (tag, seconds, nanos) = (from.u8()?, from.u64()?, from.u32()?);
            if nanos >= 1_000_000_000 {
                return Err(Malformed("nanoseconds out of bounds"));
            }
            let time = Duration::new(seconds, nanos);
            let term = match tag {
                0 => Term::Session { at_least: time },
                1 => Term::Fixed(time),
                _ => return Err(Malformed("an unknown kind of term")),
            };
            queue.push_back(Waiter { session, ticket, mode, weight, term, note: from.note()? });
        }
        let mut tombstones = Vec::new();
        for _ in 0..from.u32()? {
            tombstones.push((from.session()?, Ticket(from.u64()?)));
        }
        from.end()?;
        Ok(KeyRecord { fence, now, capacity, holders, queue, tombstones })
    }
}

impl SessionRecord {
    /// The record's one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.push(SESSION_V1);
        out.extend(self.id.as_u128().to_be_bytes());
        put_u64(&mut out, self.ttl);
        put_u64(&mut out, self.stamp);
        out.push(u8::from(self.ended));
        put_u32(&mut out, self.info.pid());
        for text in
            [self.info.name(), self.info.host(), self.info.pod(), self.info.namespace(), self.info.node()]
        {
            put_text(&mut out, text);
        }
        out
    }

    /// The record with this encoding.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`SessionRecord::encode`] did not write.
    pub fn decode(bytes: &[u8]) -> Result<SessionRecord, Malformed> {
        let mut from = Reader(bytes);
        if from.u8()? != SESSION_V1 {
            return Err(Malformed("unknown version of a session's record"));
        }
        let (id, ttl, stamp, ended) = (from.session()?, from.u64()?, from.u64()?, from.bool()?);
        let pid = from.u32()?;
        let mut text = || from.text(HolderInfo::MAX_LEN).map(|text| text.map(str::to_owned));
        let info =
            HolderInfo::new(pid).with_name(text()?).with_host(text()?).with_pod(text()?, text()?, text()?);
        from.end()?;
        Ok(SessionRecord { id, ttl, stamp, ended, info })
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_be_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_be_bytes());
}

/// Memory ends long before four billion entries do.
fn put_len(out: &mut Vec<u8>, len: usize) {
    put_u32(out, u32::try_from(len).unwrap_or(u32::MAX));
}

fn put_claim(out: &mut Vec<u8>, session: SessionId, ticket: Ticket, mode: Mode, weight: u32) {
    out.extend(session.as_u128().to_be_bytes());
    put_u64(out, ticket.0);
    match mode {
        Mode::Exclusive => out.push(0),
        Mode::Shared => out.push(1),
        Mode::Permits { held, of } => {
            out.push(2);
            put_u32(out, held);
            put_u32(out, of);
        }
    }
    put_u32(out, weight);
}

fn put_note(out: &mut Vec<u8>, note: Option<&Note>) {
    put_text(out, note.map(Note::as_str));
}

/// Absent is 0xffff: notes and names are far shorter.
fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    let len = text.map_or(u16::MAX, |text| u16::try_from(text.len()).unwrap_or(0));
    out.extend(len.to_be_bytes());
    out.extend(text.unwrap_or_default().as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take::<1>()?[0])
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither true nor false")),
        }
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    fn session(&mut self) -> Result<SessionId, Malformed> {
        self.take().map(|bytes| SessionId::from_u128(u128::from_be_bytes(bytes)))
    }

    fn claim(&mut self) -> Result<(SessionId, Ticket, Mode, u32), Malformed> {
        let (session, ticket) = (self.session()?, Ticket(self.u64()?));
        let mode = match self.u8()? {
            0 => Mode::Exclusive,
            1 => Mode::Shared,
            2 => Mode::Permits { held: self.u32()?, of: self.u32()? },
            _ => return Err(Malformed("an unknown mode")),
        };
        Ok((session, ticket, mode, self.u32()?))
    }

    fn note(&mut self) -> Result<Option<Note>, Malformed> {
        let text = self.text(Note::MAX_LEN)?;
        text.map(Note::new).transpose().map_err(|_| Malformed("a note too long"))
    }

    fn text(&mut self, longest: usize) -> Result<Option<&'a str>, Malformed> {
        let len = usize::from(u16::from_be_bytes(self.take()?));
        if len == usize::from(u16::MAX) {
            return Ok(None);
        }
        if len > longest {
            return Err(Malformed("a text too long"));
        }
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        std::str::from_utf8(head).map(Some).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("it goes on after its end")) }
    }
}
