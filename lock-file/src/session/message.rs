//! What is written to a session's pipe: 32 bytes, so that the kernel writes it whole or not at all.

use lock_core::table::{News, Notice};
use lock_core::{Event, FencingToken, Proof, Reason, SessionId, Ticket};

/// The size of a message.
pub(super) const LEN: usize = 32;

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
pub(super) fn encode(notice: &Notice) -> Option<[u8; LEN]> {
    let (kind, reason, token) = match notice.news {
        News::Granted { token } => (GRANTED, 0, token.get()),
        News::Recheck => (RECHECK, 0, 0),
        News::Revoked(reason) => (REVOKED, REASONS.iter().position(|&known| known == reason)?, 0),
        News::Wanted => (WANTED, 0, 0),
        _ => return None,
    };
    let mut out = [0; LEN];
    out[0] = kind;
    out[1] = reason as u8;
    out[4..12].copy_from_slice(&notice.ticket.0.to_be_bytes());
    out[12..20].copy_from_slice(&token.to_be_bytes());
    let check = check(notice.session, &out[..28]);
    out[28..].copy_from_slice(&check);
    Some(out)
}

/// A message as an event; `None` for one that was not meant for this session, or is garbled.
pub(super) fn decode(session: SessionId, message: &[u8]) -> Option<Event> {
    let message: &[u8; LEN] = message.try_into().ok()?;
    if message[28..] != check(session, &message[..28]) {
        return None;
    }
    let number = |at: usize| message[at..at + 8].try_into().map(u64::from_be_bytes).ok();
    let ticket = Ticket(number(4)?);
    Some(match message[0] {
        GRANTED => Event::Granted { ticket, token: FencingToken::new(number(12)?).ok()?, proof: Proof::NONE },
        RECHECK => Event::Recheck(ticket),
        REVOKED => Event::Revoked(ticket, *REASONS.get(usize::from(message[1]))?),
        WANTED => Event::Wanted(ticket),
        _ => return None,
    })
}

fn check(session: SessionId, message: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&session.as_u128().to_be_bytes());
    hasher.update(message);
    hasher.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_u128(7);

    #[test]
    fn every_news_arrives_as_its_event() {
        let token = FencingToken::new(99).unwrap();
        let mut news = vec![News::Granted { token }, News::Recheck, News::Wanted];
        news.extend(REASONS.map(News::Revoked));
        for news in news {
            let message = encode(&Notice { session: SESSION, ticket: Ticket(3), news }).unwrap();
            let matches = match (decode(SESSION, &message), news) {
                (Some(Event::Granted { ticket, token, .. }), News::Granted { token: sent }) => {
                    ticket == Ticket(3) && token == sent
                }
                (Some(Event::Recheck(ticket)), News::Recheck)
                | (Some(Event::Wanted(ticket)), News::Wanted) => ticket == Ticket(3),
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
        let message = encode(&Notice { session: SESSION, ticket: Ticket(3), news: News::Recheck }).unwrap();
        assert!(decode(SessionId::from_u128(8), &message).is_none());
        for bit in 0..LEN * 8 {
            let mut message = message;
            message[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(SESSION, &message).is_none(), "bit {bit}");
        }
        assert!(decode(SESSION, &message[1..]).is_none());
    }
}
