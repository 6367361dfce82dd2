//! From what the driver and the server say to errors that say what to do.

use std::error::Error as _;

use lock_core::{Effect, Error, ErrorKind};
use redis::{RedisError, ServerErrorKind, Value};

use crate::address::Address;
use crate::tls;

/// The error for a command that failed.
pub(crate) fn failed(error: RedisError) -> Error {
    let (kind, advice) = tls::explain(&error).unwrap_or_else(|| {
        let (kind, advice) = explain(&error);
        (kind, advice.into())
    });
    let effect =
        if error.code().is_some_and(is_refused_up_front) { Effect::NotApplied } else { Effect::Unknown };
    let retryable = kind.usually_passes() || is_passing(&error);
    Error::new(kind, format!("{error}; {advice}")).effect(effect).retryable(retryable).caused_by(error)
}

/// The error for a connection that did not come about: nothing was sent on it.
///
/// Of what the server says only the code is kept: a server, or something before it, that does not know a command repeats its
/// arguments, and among those of the first command is the password.
pub(crate) fn unreachable(error: RedisError) -> Error {
    let Some(code) = error.code() else { return failed(error).effect(Effect::NotApplied) };
    let (kind, advice) = match explain(&error) {
        _ if error.to_string().contains("max number of clients") => (
            ErrorKind::Unavailable,
            "it has no room for another connection: raise maxclients, or find out who keeps them",
        ),
        (ErrorKind::Protocol, _) => (ErrorKind::Unsupported, "it has to be Redis 7.0 or later"),
        known => known,
    };
    let retryable = kind.usually_passes() || is_passing(&error);
    Error::new(kind, format!("the server refused the connection with {code}; {advice}")).retryable(retryable)
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

/// Where a node of a cluster says that something is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Redirection<'a> {
    /// On another node. Without a host it is the host that was asked.
    Moved(Option<&'a str>, u16),
    /// On its way to another node, which may be named.
    Moving(Option<(Option<&'a str>, u16)>),
}

pub(crate) fn redirection(error: &Error) -> Option<Redirection<'_>> {
    let said = said(error)?;
    let next = || said.redirect_node().and_then(|(address, _slot)| Address::parse(address));
    match said.kind() {
        redis::ErrorKind::Server(ServerErrorKind::Moved) => {
            next().map(|(host, port)| Redirection::Moved(host, port))
        }
        redis::ErrorKind::Server(ServerErrorKind::Ask) => Some(Redirection::Moving(next())),
        redis::ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Redirection::Moving(None)),
        _ => None,
    }
}

/// Whether the keys are on their way to another node.
pub(crate) fn is_moving(error: &Error) -> bool {
    matches!(redirection(error), Some(Redirection::Moving(_)))
}

/// What an error says of the node of a cluster that gave it.
pub(crate) fn condition(error: &Error) -> Condition {
    match said(error).and_then(RedisError::code) {
        Some("CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY") => Condition::Apart,
        Some(_) => Condition::Well,
        None => Condition::Silent,
    }
}

/// How a node of a cluster is, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// It answers, and takes part.
    Well,
    /// It answers, and does not take part at the moment.
    Apart,
    /// No answer came.
    Silent,
}

/// What the driver had to say.
fn said(error: &Error) -> Option<&RedisError> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(said) = source.downcast_ref() {
            return Some(said);
        }
        next = source.source();
    }
    None
}

/// Codes with which the server refuses a command before it does anything. Behind any other, a script may have written.
fn is_refused_up_front(code: &str) -> bool {
    matches!(
        code,
        "ASK"
            | "BUSY"
            | "CLUSTERDOWN"
            | "CROSSSLOT"
            | "LOADING"
            | "MASTERDOWN"
            | "MISCONF"
            | "MOVED"
            | "NOAUTH"
            | "NOREPLICAS"
            | "NOSCRIPT"
            | "OOM"
            | "READONLY"
            | "TRYAGAIN"
            | "WRONGPASS"
    )
}

fn explain(error: &RedisError) -> (ErrorKind, &'static str) {
    use redis::ErrorKind as Driver;
    match (error.kind(), error.code()) {
        (Driver::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            (ErrorKind::Denied, "check user and password (ACL GETUSER)")
        }
        _ if lacks_a_right(error) => (
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
        (Driver::Server(ServerErrorKind::TryAgain | ServerErrorKind::Ask), _) => {
            (ErrorKind::Unavailable, "the slot of this key is being moved to another node of the cluster")
        }
        (Driver::Server(ServerErrorKind::ClusterDown), _) => {
            (ErrorKind::Unavailable, "the cluster has lost a part of its slots, or this node the others")
        }
        (Driver::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot), _) => {
            (ErrorKind::Misconfigured, "this is a node of a cluster: its URL begins with redis+cluster:")
        }
        (Driver::Server(_) | Driver::Extension | Driver::UnexpectedReturnType, _) => {
            (ErrorKind::Protocol, "is this Redis 7.0 or later?")
        }
        _ => (
            ErrorKind::Unavailable,
            "is it up, can it be reached from here, has it room for another connection (maxclients), and does it speak TLS \
             (rediss) or not (redis)?",
        ),
    }
}

/// Of a command, or in the middle of a script: in the words of 7.0, and of later ones.
fn lacks_a_right(error: &RedisError) -> bool {
    let says = |words| error.to_string().contains(words);
    error.code() == Some("NOPERM") || says("executing the script can't") || says("ACL failure in script")
}

/// Refusals that are over by themselves.
fn is_passing(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOREPLICAS" | "OOM" | "MISCONF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_a_script_lacks_is_told_in_the_words_of_each_version() {
        for words in [
            "The user executing the script can't run this command or subcommand script: on @user_script:5.",
            "ACL failure in script: User locks has no permissions to run the 'publish' command",
        ] {
            let error = failed(RedisError::from((redis::ErrorKind::Extension, "ERR", words.to_owned())));
            assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Denied, Effect::Unknown), "{error}");
        }
    }

    #[test]
    fn what_never_left_had_no_effect() {
        let refused = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(failed(refused()).took_effect(), Effect::Unknown);
        let error = unreachable(refused());
        assert_eq!((error.took_effect(), error.kind()), (Effect::NotApplied, &ErrorKind::Unavailable));
        assert!(error.is_retryable());
    }
}
