//! From what the driver and the server say to errors that say what to do.

use lock_core::{Effect, Error, ErrorKind};
use redis::{RedisError, ServerErrorKind, Value};

/// The error for a command that failed.
pub(crate) fn failed(error: RedisError) -> Error {
    let (kind, advice) = explain(&error);
    let effect = match error.code() {
        // A script that fails on its way may have written before.
        Some("ERR") | None => Effect::Unknown,
        // The server said no before it did anything.
        Some(_) => Effect::NotApplied,
    };
    let retryable = kind.usually_passes() || is_passing(&error);
    Error::new(kind, format!("{error}; {advice}")).effect(effect).retryable(retryable).caused_by(error)
}

/// The error for a connection that did not come about: nothing was sent on it.
pub(crate) fn unreachable(error: RedisError) -> Error {
    failed(error).effect(Effect::NotApplied)
}

/// What the server answered is nothing that our scripts answer.
pub(crate) fn unexpected(what: &str, answer: &Value) -> Error {
    // Its shape alone: it may hold what is nobody's business.
    let shape = match answer {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) => "a list",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "a text",
        _ => "something else",
    };
    Error::new(
        ErrorKind::Protocol,
        format!(
            "the answer to {what} is {shape} that this version's scripts do not give: is something between here and the server?"
        ),
    )
    .effect(Effect::Unknown)
}

fn explain(error: &RedisError) -> (ErrorKind, &'static str) {
    use redis::ErrorKind as Driver;
    match (error.kind(), error.code()) {
        (Driver::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            (ErrorKind::Denied, "check user and password (ACL GETUSER)")
        }
        (Driver::Server(ServerErrorKind::NoPerm), _) => (
            ErrorKind::Denied,
            "the account lacks a right: the page about Redis lists those that it needs (ACL LOG)",
        ),
        (_, Some("OOM")) => (
            ErrorKind::Exhausted,
            "the server is at its maxmemory: make room, raise it, or give the locks a server of their own",
        ),
        (_, Some("MISCONF")) => (
            ErrorKind::Exhausted,
            "the server cannot write its snapshot, and so refuses writes: look at its disk and its log",
        ),
        (_, Some("NOREPLICAS")) => {
            (ErrorKind::Exhausted, "too few replicas are connected for min-replicas-to-write")
        }
        (Driver::Server(ServerErrorKind::ReadOnly), _) => {
            (ErrorKind::Exhausted, "this is a replica: connect to the primary")
        }
        (Driver::Server(ServerErrorKind::BusyLoading), _) => {
            (ErrorKind::Unavailable, "it is reading its data after a start")
        }
        (Driver::Server(ServerErrorKind::MasterDown), _) => {
            (ErrorKind::Unavailable, "this is a replica whose primary is gone: connect to the primary")
        }
        (_, Some("BUSY")) => {
            (ErrorKind::Unavailable, "a script of somebody's has been running for long (SCRIPT KILL)")
        }
        (_, Some("DAMAGED" | "WRONGTYPE")) => {
            (ErrorKind::Damaged, "something else writes into this namespace: give the locks one of their own")
        }
        (Driver::RESP3NotSupported, _) => (ErrorKind::Unsupported, "it has to be Redis 7.0 or later"),
        (Driver::InvalidClientConfig, _) => (ErrorKind::Misconfigured, "see the page about Redis"),
        (Driver::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot), _) => {
            (ErrorKind::Misconfigured, "this is a node of a cluster, and was addressed as a single server")
        }
        _ if is_full(error) => (
            ErrorKind::Unavailable,
            "it has no connection to spare: raise maxclients, or find out who keeps them",
        ),
        (Driver::Server(_) | Driver::Extension | Driver::UnexpectedReturnType, _) => {
            (ErrorKind::Protocol, "is this Redis 7.0 or later?")
        }
        _ => (ErrorKind::Unavailable, "is it up, and can it be reached from here?"),
    }
}

/// Refusals that are over by themselves.
fn is_passing(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOREPLICAS" | "OOM" | "MISCONF"))
}

fn is_full(error: &RedisError) -> bool {
    error.to_string().contains("max number of clients")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_left_had_no_effect() {
        let refused = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(failed(refused()).took_effect(), Effect::Unknown);
        let error = unreachable(refused());
        assert_eq!((error.took_effect(), error.kind()), (Effect::NotApplied, &ErrorKind::Unavailable));
        assert!(error.is_retryable());
    }
}
