//! The scripts' answers, taken apart.

use std::time::Duration;

use lock_core::table::Outcome;
use lock_core::{
    Busy, Claimed, Effect, Error, ErrorKind, FencingToken, HolderInfo, Proof, Released, Result, Standing,
};
use redis::Value;

use crate::failure::unexpected;

/// Redis counts a key's life in whole milliseconds and lets it end behind the last of them.
const BEHIND_THE_END: u64 = 2;

/// The answer to a claim: its token, if `foreseen` is the one that a grant at once has.
pub(crate) fn claimed(answer: &Value, foreseen: Option<u64>) -> Result<Claimed> {
    let wrong = || unexpected("a claim", answer);
    if let Value::Int(1) = answer {
        return granted(foreseen.ok_or_else(wrong)?);
    }
    let Value::Array(words) = answer else { return Err(wrong()) };
    let number = |place: usize| words.get(place).and_then(number);
    match words.first().and_then(text).ok_or_else(wrong)? {
        "granted" => granted(number(1).ok_or_else(wrong)?),
        "queued" => Ok(Claimed::Queued { recheck_in: number(1).map(recheck), busy: busy(words.get(2..)) }),
        "busy" => Ok(Claimed::Busy(busy(words.get(2..)))),
        "ended" => Err(Outcome::SessionEnded.into_error()),
        "withdrawn" => Err(Outcome::Withdrawn.into_error()),
        "exhausted" => Err(Outcome::FenceExhausted.into_error()),
        "capacity" => {
            let in_force = number(1).and_then(|number| u32::try_from(number).ok()).ok_or_else(wrong)?;
            Err(Outcome::CapacityMismatch { in_force }.into_error())
        }
        _ => Err(wrong()),
    }
}

/// The answer to a release.
pub(crate) fn released(answer: &Value) -> Result<Released> {
    match (answer, text(answer)) {
        (Value::Int(1), _) | (_, Some("done")) => Ok(Released::Done),
        (_, Some("gone")) => Ok(Released::Gone),
        _ => Err(unexpected("a release", answer)),
    }
}

/// The answer to a renewal of so many claims; `None` for a session that is over.
pub(crate) fn standings(answer: &Value, count: usize) -> Result<Option<Vec<Standing>>> {
    let Value::Array(words) = answer else {
        return if *answer == Value::Nil { Ok(None) } else { Err(unexpected("a renewal", answer)) };
    };
    let standings: Option<Vec<_>> = words.iter().map(standing).collect();
    match standings {
        Some(standings) if standings.len() == count => Ok(Some(standings)),
        _ => Err(unexpected("a renewal", answer)),
    }
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// Whose a session is, by its value.
pub(crate) fn info(value: &str) -> Option<HolderInfo> {
    HolderInfo::decode(value.get(1..)?)
}

fn granted(token: u64) -> Result<Claimed> {
    let token = FencingToken::new(token).map_err(|error| {
        Error::new(ErrorKind::Protocol, "the server granted a token that is none")
            .effect(Effect::Unknown)
            .caused_by(error)
    })?;
    Ok(Claimed::Granted { token, proof: Proof::NONE })
}

fn standing(value: &Value) -> Option<Standing> {
    let word = text(value)?;
    if word == "?" {
        return Some(Standing::Unknown);
    }
    Some(match word.strip_prefix('w') {
        Some("") => Standing::Waits { recheck_in: None },
        Some(millis) => Standing::Waits { recheck_in: Some(recheck(millis.parse().ok()?)) },
        None if word.is_empty() => Standing::Gone,
        None => match word.parse().ok().and_then(|token| FencingToken::new(token).ok()) {
            Some(token) => Standing::Holds { token, proof: Proof::NONE },
            // What something else has written there is a matter of this key alone.
            None => Standing::Unknown,
        },
    })
}

/// Zero stays zero: whoever was in the way is gone already.
fn recheck(millis: u64) -> Duration {
    Duration::from_millis(if millis == 0 { 0 } else { millis + BEHIND_THE_END })
}

/// The first holder: its token, how long its hold still runs, whose it is.
fn busy(words: Option<&[Value]>) -> Busy {
    let [token, left, value] = words.unwrap_or_default() else { return Busy::new() };
    Busy::new()
        .held_by(text(value).and_then(info))
        .for_another(number(left).map(Duration::from_millis))
        .under(number(token).and_then(|token| FencingToken::new(token).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn answers_that_no_script_gives_are_errors() {
        for wrong in [
            Value::Nil,
            Value::Int(2),
            Value::Okay,
            words(&[]),
            words(&["granted"]),
            words(&["granted", "0"]),
        ] {
            let error = claimed(&wrong, None).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Protocol, "{wrong:?}");
        }
        assert!(claimed(&Value::Int(1), None).is_err(), "nothing was foreseen");
        assert!(released(&words(&["done"])).is_err());
        assert!(standings(&words(&["7"]), 2).is_err());
        let unknown = standings(&words(&["x", "0"]), 2);
        assert!(matches!(unknown, Ok(Some(it)) if matches!(it[..], [Standing::Unknown, Standing::Unknown])));
    }

    #[test]
    fn a_waiter_asks_again_behind_the_holders_end() {
        let Ok(Some(standings)) = standings(&words(&["w0", "w5", "w", "", "9"]), 5) else { panic!() };
        let rechecks: Vec<_> = standings
            .iter()
            .filter_map(|standing| match standing {
                Standing::Waits { recheck_in } => Some(recheck_in.map(|time| time.as_millis())),
                _ => None,
            })
            .collect();
        assert_eq!(rechecks, [Some(0), Some(7), None]);
        assert!(matches!(standings[3..], [Standing::Gone, Standing::Holds { .. }]));
    }
}
