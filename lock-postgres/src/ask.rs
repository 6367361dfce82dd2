//! [`Ask`]: a claim or a release, as `apply` reads it, and what became of it.

use std::time::Duration;

use lock_core::table::Outcome;
use lock_core::{
    Busy, Claim, Claimed, Effect, Error, ErrorKind, FencingToken, HolderInfo, Note, Proof, Released, Result,
    SessionId, Term, Ticket,
};
use sqlx::Arguments;
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow};

use crate::failure::{failed, unexpected};

/// Whoever asks again when a holder's time is over is not to come too early by the rounding of it.
const BEHIND_THE_END: Duration = Duration::from_millis(2);

/// A claim or a release.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    op: &'static str,
    session: SessionId,
    ticket: i64,
    key: Vec<u8>,
    weight: i64,
    capacity: i64,
    kind: &'static str,
    lasts: i64,
    mode: String,
    /// In bytes on the way: not each database has all characters, and none has a NUL.
    note: String,
}

impl Ask {
    /// # Errors
    /// A term of a kind that the functions do not know, and a ticket above what the store can count.
    pub(crate) fn claim(session: SessionId, claim: &Claim, key: Vec<u8>) -> Result<Ask> {
        let (kind, lasts) = match claim.term {
            Term::Fixed(time) => ("f", micros(time)),
            Term::Session { at_least } => ("s", micros(at_least)),
            other => {
                return Err(Error::unsupported(format!(
                    "the store in Postgres knows no term such as {other:?}"
                )));
            }
        };
        Ok(Ask {
            op: if claim.wait { "w" } else { "c" },
            session,
            ticket: number(claim.ticket)?,
            key,
            weight: claim.permit.weight().into(),
            capacity: claim.permit.capacity().into(),
            kind,
            lasts,
            mode: claim.mode.encoded(),
            note: claim.note.as_ref().map_or_else(String::new, |note| note.as_str().to_owned()),
        })
    }

    /// `is_elsewhere`: a copy of the claim may be on its way on another connection.
    pub(crate) fn release(
        session: SessionId,
        ticket: Ticket,
        key: Vec<u8>,
        is_elsewhere: bool,
    ) -> Result<Ask> {
        Ok(Ask {
            op: if is_elsewhere { "u" } else { "r" },
            session,
            ticket: number(ticket)?,
            key,
            weight: 0,
            capacity: 0,
            kind: "",
            lasts: 0,
            mode: String::new(),
            note: String::new(),
        })
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// What `apply_one` takes.
    pub(crate) fn argument(&self) -> Result<PgArguments, sqlx::error::BoxDynError> {
        let mut arguments = PgArguments::default();
        arguments.add(self.op)?;
        arguments.add(bytes(self.session))?;
        arguments.add(self.ticket)?;
        arguments.add(self.key.as_slice())?;
        arguments.add(self.weight)?;
        arguments.add(self.capacity)?;
        arguments.add(self.kind)?;
        arguments.add(self.lasts)?;
        arguments.add(self.mode.as_str())?;
        arguments.add(self.note.as_bytes())?;
        Ok(arguments)
    }

    /// What `apply` takes, for several at once.
    pub(crate) fn arguments(asks: &[&Ask]) -> Result<PgArguments, sqlx::error::BoxDynError> {
        let mut arguments = PgArguments::default();
        arguments.add(asks.iter().map(|ask| ask.op).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| bytes(ask.session)).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.ticket).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.key.as_slice()).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.weight).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.capacity).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.kind).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.lasts).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.mode.as_str()).collect::<Vec<_>>())?;
        arguments.add(asks.iter().map(|ask| ask.note.as_bytes()).collect::<Vec<_>>())?;
        Ok(arguments)
    }
}

/// What became of one.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    outcome: String,
    number: Option<i64>,
    recheck: Option<i64>,
    blocker: Option<i64>,
    blocked_for: Option<i64>,
    blocked_by: Option<String>,
    /// Sessions that have expired, and are in the way until somebody has ended them.
    pub(crate) expired: Vec<Vec<u8>>,
}

impl Answer {
    /// Which of those that were asked together it answers, and the answer.
    pub(crate) fn read(row: &PgRow) -> Result<(usize, Answer)> {
        let read = || -> Result<(i64, Answer), sqlx::Error> {
            let answer = Answer {
                outcome: row.try_get(1)?,
                number: row.try_get(2)?,
                recheck: row.try_get(3)?,
                blocker: row.try_get(4)?,
                blocked_for: row.try_get(5)?,
                blocked_by: row.try_get(6)?,
                expired: row.try_get::<Option<_>, _>(7)?.unwrap_or_default(),
            };
            Ok((row.try_get(0)?, answer))
        };
        let (place, answer) = read().map_err(failed)?;
        let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
        Ok((place.ok_or_else(|| unexpected("claims and releases"))?, answer))
    }

    /// To a claim that did not wait, where somebody else was at the key's row all the time.
    pub(crate) fn busy_with_the_row() -> Answer {
        Answer {
            outcome: "busy".to_owned(),
            number: None,
            recheck: None,
            blocker: None,
            blocked_for: None,
            blocked_by: None,
            expired: Vec::new(),
        }
    }

    /// Whether it is to be asked again, once sessions have been ended.
    pub(crate) fn is_put_off(&self) -> bool {
        self.outcome == "expired"
    }

    /// The token, for a claim that was granted.
    pub(crate) fn token(&self) -> Result<Option<FencingToken>> {
        if self.outcome == "granted" { self.number().and_then(token).map(Some) } else { Ok(None) }
    }

    pub(crate) fn claimed(&self, proof: Proof) -> Result<Claimed> {
        match self.outcome.as_str() {
            "granted" => Ok(Claimed::Granted { token: token(self.number()?)?, proof }),
            "queued" => Ok(Claimed::Queued { recheck_in: self.recheck.map(recheck), busy: self.busy() }),
            "busy" => Ok(Claimed::Busy(self.busy())),
            "ended" => Err(Outcome::SessionEnded.into_error()),
            "withdrawn" => Err(Outcome::Withdrawn.into_error()),
            "exhausted" => Err(Outcome::FenceExhausted.into_error()),
            "capacity" => {
                let in_force = u32::try_from(self.number()?).map_err(|_| unexpected("a claim"))?;
                Err(Outcome::CapacityMismatch { in_force }.into_error())
            }
            _ => Err(unexpected("a claim")),
        }
    }

    pub(crate) fn released(&self) -> Result<Released> {
        match self.outcome.as_str() {
            "done" => Ok(Released::Done),
            "gone" => Ok(Released::Gone),
            "fenced" => Err(fenced()),
            _ => Err(unexpected("a release")),
        }
    }

    fn number(&self) -> Result<i64> {
        self.number.ok_or_else(|| unexpected("a claim"))
    }

    fn busy(&self) -> Busy {
        Busy::new()
            .held_by(self.blocked_by.as_deref().and_then(HolderInfo::decode))
            .for_another(self.blocked_for.map(duration))
            .under(self.blocker.and_then(|number| token(number).ok()))
    }
}

/// A holder cannot be removed just now.
pub(crate) fn fenced() -> Error {
    Error::unavailable(
        "a transaction has fenced its writes by this hold and goes on; nothing was done. It ends with that transaction: commit it \
         before the lock is released",
    )
    .effect(Effect::NotApplied)
}

/// In how long to ask again. Zero stays zero: whoever was in the way is gone already.
pub(crate) fn recheck(micros: i64) -> Duration {
    let time = duration(micros);
    if time.is_zero() { time } else { time + BEHIND_THE_END }
}

pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

pub(crate) fn token(number: i64) -> Result<FencingToken> {
    let token = u64::try_from(number).ok().and_then(|number| FencingToken::new(number).ok());
    token.ok_or_else(|| {
        Error::new(ErrorKind::Protocol, format!("the server granted the token {number}, which is none"))
            .effect(Effect::Unknown)
    })
}

/// A session's id, as the tables have it.
pub(crate) fn bytes(session: SessionId) -> Vec<u8> {
    session.as_u128().to_be_bytes().to_vec()
}

pub(crate) fn session(bytes: &[u8]) -> Option<SessionId> {
    Some(SessionId::from_u128(u128::from_be_bytes(bytes.try_into().ok()?)))
}

pub(crate) fn note(bytes: &[u8]) -> Option<Note> {
    let text = str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
    Note::new(text).ok()
}

pub(crate) fn number(ticket: Ticket) -> Result<i64> {
    i64::try_from(ticket.0).map_err(|_| Error::invalid("a ticket in Postgres is at most 2^63 - 1"))
}

/// Rounded up: nobody holds for less than was asked. Bounded, so that instants can be added to.
pub(crate) fn micros(time: Duration) -> i64 {
    const CENTURY: u128 = 100 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(time.as_nanos().div_ceil(1000).min(CENTURY)).unwrap_or(i64::MAX)
}
