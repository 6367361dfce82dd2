//! What is written to a session's pipe: 32 bytes and perhaps a key. Far less than a page, so that the kernel writes it
//! whole or not at all.

use lock_core::table::{News, Notice};
use lock_core::{ClaimRef, Event, FencingToken, LockKey, Proof, Reason, SessionId, Ticket};

/// The size of a message without its key.
const HEAD: usize = 32;

/// The longest message, less than half a page: a key of 512 bytes under a prefix of 64, each byte spelled with three.
pub(super) const LONGEST: usize = HEAD + 3 * (512 + 64) + 1;

const GRANTED: u8 = 1;
const RECHECK: u8 = 2;
const REVOKED: u8 = 3;
const WANTED: u8 = 4;

const REASONS: [Reason; 6] = [
    Reason::Expired,
    Reason::SessionEnded,
    Reason::Revoked,
    Reason::Forgotten,
    Reason::HeldTooLong,
    Reason::ShutDown,
];

/// A notice as a message; `None` for news that this version cannot send.
pub(super) fn encode(key: &LockKey, notice: &Notice) -> Option<Vec<u8>> {
    let (kind, reason, token) = match notice.news {
        News::Granted { token } => (GRANTED, 0, token.get()),
        News::Recheck => (RECHECK, 0, 0),
        News::Revoked(reason) => (REVOKED, REASONS.iter().position(|&known| known == reason)?, 0),
        News::Wanted => (WANTED, 0, 0),
        _ => return None,
    };
    // Only this one may be about a claim that its session does not know.
    let key = if kind == WANTED { key.encoded() } else { String::new() };
    let mut out = Vec::with_capacity(HEAD + key.len());
    out.extend([kind, reason as u8]);
    out.extend(u16::try_from(key.len()).ok()?.to_be_bytes());
    out.extend(notice.ticket.0.to_be_bytes());
    out.extend(token.to_be_bytes());
    out.extend([0; 8]);
    let check = check(notice.session, &out, key.as_bytes());
    out.extend(check);
    out.extend(key.as_bytes());
    Some(out)
}

/// The events in what was read from a pipe; `None` for each message that was not meant for this session, or is garbled.
pub(super) fn decode_all(session: SessionId, mut read: &[u8]) -> impl Iterator<Item = Option<Event>> {
    std::iter::from_fn(move || {
        let head = read.get(..HEAD).filter(|_| !read.is_empty());
        let len = match head {
            Some(head) => HEAD + usize::from(u16::from_be_bytes([head[2], head[3]])),
            None if read.is_empty() => return None,
            None => read.len(),
        };
        let (message, rest) = read.split_at_checked(len).unwrap_or((read, &[]));
        read = rest;
        Some(decode(session, message))
    })
}

/// A message as an event; `None` for one that was not meant for this session, or is garbled.
fn decode(session: SessionId, message: &[u8]) -> Option<Event> {
    let (head, key) = message.split_at_checked(HEAD)?;
    if head[28..] != check(session, &head[..28], key) {
        return None;
    }
    let number = |at: usize| head[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let ticket = Ticket(number(4)?);
    Some(match head[0] {
        GRANTED => Event::Granted { ticket, token: FencingToken::new(number(12)?).ok()?, proof: Proof::NONE },
        RECHECK => Event::Recheck(ticket),
        REVOKED => Event::Revoked(ticket, *REASONS.get(usize::from(head[1]))?),
        WANTED => Event::Wanted(ClaimRef::new(LockKey::decode(std::str::from_utf8(key).ok()?)?, ticket)),
        _ => return None,
    })
}

fn check(session: SessionId, head: &[u8], key: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&session.as_u128().to_be_bytes());
    hasher.update(head);
    hasher.update(key);
    hasher.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_u128(7);

    fn key() -> LockKey {
        LockKey::new("a/b").unwrap()
    }

    #[test]
    fn every_news_arrives_as_its_event() {
        let token = FencingToken::new(99).unwrap();
        let mut news = vec![News::Granted { token }, News::Recheck, News::Wanted];
        news.extend(REASONS.map(News::Revoked));
        for news in news {
            let message = encode(&key(), &Notice { session: SESSION, ticket: Ticket(3), news }).unwrap();
            let matches = match (decode(SESSION, &message), news) {
                (Some(Event::Granted { ticket, token, .. }), News::Granted { token: sent }) => {
                    ticket == Ticket(3) && token == sent
                }
                (Some(Event::Recheck(ticket)), News::Recheck) => ticket == Ticket(3),
                (Some(Event::Wanted(claim)), News::Wanted) => claim == ClaimRef::new(key(), Ticket(3)),
                (Some(Event::Revoked(ticket, reason)), News::Revoked(sent)) => {
                    ticket == Ticket(3) && reason == sent
                }
                _ => false,
            };
            assert!(matches, "{news:?}");
        }
    }

    #[test]
    fn a_flipped_bit_or_another_session_is_refused() {
        let notice = Notice { session: SESSION, ticket: Ticket(3), news: News::Wanted };
        let message = encode(&key(), &notice).unwrap();
        assert!(decode(SessionId::from_u128(8), &message).is_none());
        for bit in 0..message.len() * 8 {
            let mut message = message.clone();
            message[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(SESSION, &message).is_none(), "bit {bit}");
        }
        assert!(decode(SESSION, &message[1..]).is_none());
    }

    #[test]
    fn several_messages_are_told_apart_and_a_torn_one_is_noticed() {
        let message = |news| encode(&key(), &Notice { session: SESSION, ticket: Ticket(3), news }).unwrap();
        let mut read = message(News::Wanted);
        read.extend(message(News::Recheck));
        read.extend(message(News::Wanted));
        assert_eq!(decode_all(SESSION, &read).filter(Option::is_some).count(), 3);
        read.truncate(read.len() - 1);
        let events: Vec<_> = decode_all(SESSION, &read).map(|event| event.is_some()).collect();
        assert_eq!(events, [true, true, false]);
    }

    #[test]
    fn the_longest_key_fits() {
        let prefix = lock_core::Prefix::new("/".repeat(64)).unwrap();
        let key = LockKey::new("/".repeat(512)).unwrap().under(Some(&prefix));
        let notice = Notice { session: SESSION, ticket: Ticket(3), news: News::Wanted };
        assert_eq!(encode(&key, &notice).unwrap().len(), LONGEST);
    }
}
