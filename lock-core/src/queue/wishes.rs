//! What those who wait tell those who hold, in stores that keep texts: which claims are in the way.

use crate::backend::{ClaimRef, Ticket};
use crate::key::LockKey;

/// One line for each claim: `TICKET KEY`.
pub fn written<'a>(claims: impl IntoIterator<Item = (&'a LockKey, Ticket)>) -> String {
    let lines: Vec<_> =
        claims.into_iter().map(|(key, ticket)| format!("{} {}", ticket.0, key.encoded())).collect();
    lines.join("\n")
}

/// What was [`written`]. Anything else in it is passed over.
pub fn read(text: &str) -> impl Iterator<Item = ClaimRef> {
    text.lines().filter_map(|line| {
        let (ticket, key) = line.split_once(' ')?;
        Some(ClaimRef::new(LockKey::decode(key)?, Ticket(ticket.parse().ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_read_back() {
        let (one, other) = (LockKey::new("a b\n").unwrap(), LockKey::new("c").unwrap());
        let text = written([(&one, Ticket(3)), (&other, Ticket(4))]) + "\nno wish";
        let found: Vec<_> = read(&text).collect();
        assert_eq!(found, [ClaimRef::new(one, Ticket(3)), ClaimRef::new(other, Ticket(4))]);
    }
}
