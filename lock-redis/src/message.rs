//! What the scripts publish for a session, as events.

use lock_core::{ClaimRef, Event, FencingToken, LockKey, Proof, Reason, Ticket};

/// The event of a message; `None` for one that no script sends: anybody may publish.
pub(crate) fn event(text: &str) -> Option<Event> {
    let mut words = text.split(' ');
    let (word, ticket) = (words.next()?, Ticket(words.next()?.parse().ok()?));
    let rest = words.next();
    Some(match (word, rest) {
        ("g", Some(token)) => {
            let token = FencingToken::new(token.parse().ok()?).ok()?;
            Event::Granted { ticket, token, proof: Proof::NONE }
        }
        ("r", None) => Event::Recheck(ticket),
        ("v", None) => Event::Revoked(ticket, Reason::Revoked),
        ("w", Some(name)) => Event::Wanted(ClaimRef::new(LockKey::decode(name)?, ticket)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_scripts_send_is_an_event() {
        assert!(
            matches!(event("g 7 99"), Some(Event::Granted { ticket: Ticket(7), token, .. }) if token.get() == 99)
        );
        assert!(matches!(event("r 7"), Some(Event::Recheck(Ticket(7)))));
        assert!(matches!(event("v 7"), Some(Event::Revoked(Ticket(7), Reason::Revoked))));
        assert!(matches!(event("w 7 a%2Fb"), Some(Event::Wanted(claim)) if claim.key.as_str() == "a/b"));
        for wrong in ["", "g", "g 7", "g x 1", "g 7 0", "r 7 x", "w 7", "w 7 a/b", "x 7"] {
            assert!(event(wrong).is_none(), "{wrong:?}");
        }
    }
}
