//! From what the driver and the servers say to errors that say what to do.

use lock_core::{Effect, Error, ErrorKind, Reason};
use lock_tls::Words;
use zookeeper_client::Error as Driver;

const WORDS: Words = Words {
    scheme: "zookeeper",
    // Java says this where there is none.
    bad_certificate: Some(
        "the server does not accept the client's certificate: there has to be one (cert_file, key_file), of an authority that the \
         server knows, that has not expired",
    ),
};

/// Where nobody says why.
pub(crate) const NO_SERVER: &str = "no server lets anybody in: are they up, can they be reached from here, have they a quorum (srvr says so) and \
     room for another connection (maxClientCnxns), and do they speak TLS (zookeepers) exactly where the URL says so?";

/// The error for a call that failed.
pub(crate) fn failed(error: Driver) -> Error {
    let (kind, effect, advice) = match &error {
        Driver::SessionExpired | Driver::SessionMoved | Driver::ClientClosed => {
            return Error::session_lost(Reason::SessionEnded).effect(Effect::Unknown).caused_by(error);
        }
        // It ends whatever was under way.
        Driver::AuthFailed => {
            (ErrorKind::Denied, Effect::Unknown, "check user and password, and whether the servers want SASL")
        }
        Driver::NoAuth => (
            ErrorKind::Denied,
            Effect::NotApplied,
            "the account may not do this under this root, or its password is wrong: the page about ZooKeeper says what it needs",
        ),
        Driver::InvalidAcl => (
            ErrorKind::Misconfigured,
            Effect::NotApplied,
            "nodes that are to be their creator's alone need an account, in the URL or by a client certificate",
        ),
        Driver::NotReadOnly => (
            ErrorKind::Unavailable,
            Effect::NotApplied,
            "the server is cut off from the others and takes no writes",
        ),
        Driver::QuotaExceeded => (
            ErrorKind::Exhausted,
            Effect::NotApplied,
            "the quota of the root is used up: raise it (setquota), or look for what else lies there",
        ),
        Driver::Throttled => (ErrorKind::Unavailable, Effect::NotApplied, "the servers have too much to do"),
        Driver::Unimplemented => {
            (ErrorKind::Unsupported, Effect::NotApplied, "it has to be ZooKeeper 3.6 or later")
        }
        Driver::NoNode
        | Driver::NodeExists
        | Driver::BadVersion
        | Driver::NotEmpty
        | Driver::NoChildrenForEphemerals => {
            (ErrorKind::Protocol, Effect::NotApplied, "somebody else changes nodes under this root")
        }
        Driver::BadArguments(_)
        | Driver::MarshallingError
        | Driver::UnmarshalError { .. }
        | Driver::UnexpectedErrorCode(_) => {
            (ErrorKind::Protocol, Effect::Unknown, "is this ZooKeeper 3.6 or later?")
        }
        Driver::NoHosts | Driver::Timeout => (ErrorKind::Unavailable, Effect::NotApplied, NO_SERVER),
        // A server that has lost the others ends its clients' connections. The driver ends one on which nothing is answered, which
        // is so behind a write that the others do not confirm.
        _ => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "the connection ended without an answer; it is made anew. If that goes on: have the servers a quorum (srvr says so), or \
             too much to do (mntr)?",
        ),
    };
    let passes = kind.usually_passes() || matches!(error, Driver::QuotaExceeded);
    Error::new(kind, format!("{error}; {advice}")).effect(effect).retryable(passes).caused_by(error)
}

/// TLS is why there is no connection.
pub(crate) fn refused_by_tls(error: &std::io::Error) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some((kind, advice)) = lock_tls::explain_refusal(error, &WORDS) {
            let message = format!("{error}; {advice}");
            return Some(Error::new(kind, message).effect(Effect::NotApplied).retryable(false));
        }
        // What an error of this kind wraps is no source of it.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

pub(crate) fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
