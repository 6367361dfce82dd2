//! From what the driver and the servers say to errors that say what to do.

use std::error::Error as _;

use etcd_client::Error as Driver;
use lock_core::{Effect, Error, ErrorKind};

use crate::tls::{self, Refusal};

/// The error for a call that failed.
pub(crate) fn failed(error: Driver) -> Error {
    if let Some(refusal) = tls_refusal(&error) {
        return refused(refusal).caused_by(error);
    }
    let (kind, effect, advice) = explain(&error);
    let retryable = kind.usually_passes()
        || says(&error, "database space exceeded")
        || says(&error, "authentication is not enabled");
    Error::new(kind, format!("{error}; {advice}")).effect(effect).retryable(retryable).caused_by(error)
}

/// The error where TLS is why there is no connection.
pub(crate) fn refused(Refusal { kind, said, advice }: Refusal) -> Error {
    Error::new(kind, format!("{said}; {advice}")).effect(Effect::NotApplied).retryable(false)
}

/// Whether a connection that was there has ended without an answer.
pub(crate) fn is_hung_up(error: &Driver) -> bool {
    matches!(error, Driver::GRpcStatus(status)
        if status.source().is_some() && status.code() as i32 != UNAVAILABLE && tls_refusal(error).is_none())
}

/// The error for a call that failed on a line that was made before: a new one reads the files for TLS again, and may be let in.
pub(crate) fn failed_on_old_line(error: Driver) -> Error {
    let Some(Refusal { said, advice, .. }) = tls_refusal(&error) else { return failed(error) };
    Error::new(
        ErrorKind::Unavailable,
        format!("{said}; {advice} (the next attempt reads the files for TLS again)"),
    )
    .effect(Effect::NotApplied)
    .caused_by(error)
}

fn tls_refusal(error: &Driver) -> Option<Refusal> {
    match error {
        // Only calls without an answer have a cause.
        Driver::GRpcStatus(status) => tls::refusal(status.source()?),
        Driver::TransportError(error) => tls::refusal(error),
        _ => None,
    }
}

/// Whether another endpoint may have a better answer.
pub(crate) fn is_of_the_endpoint(error: &Driver) -> bool {
    match error {
        Driver::GRpcStatus(status) => {
            [UNAVAILABLE, UNKNOWN, DEADLINE, CANCELLED, INTERNAL].contains(&(status.code() as i32))
        }
        Driver::InvalidArgs(_) | Driver::InvalidUri(_) | Driver::Utf8Error(_) => false,
        // A lease has ended: its session's affair, and nobody else's.
        Driver::LeaseKeepAliveError(_) => false,
        _ => true,
    }
}

/// Whether it is certain that nothing has come of a call.
pub(crate) fn is_refused(error: &Driver) -> bool {
    says(error, LEASE_GONE) || tls_refusal(error).is_some() || explain(error).1 == Effect::NotApplied
}

/// A transaction, or the answer to it, is larger than is taken here or there.
pub(crate) fn is_too_much(error: &Driver) -> bool {
    says(error, "too many operations") || says(error, "too large")
}

/// The same for another one whose call it was.
pub(crate) fn copied(error: &Driver) -> Driver {
    match error {
        Driver::GRpcStatus(status) => Driver::GRpcStatus(status.clone()),
        // None that a call ends with once there is a connection.
        other => Driver::Internal(other.to_string()),
    }
}

const LEASE_GONE: &str = "requested lease not found";

/// The lease that a call names is over.
pub(crate) fn is_lease_gone(error: &Error) -> bool {
    drivers(error)
        .is_some_and(|error| says(error, LEASE_GONE) || matches!(error, Driver::LeaseKeepAliveError(_)))
}

/// Somebody has a lease of this number: an earlier copy of the same call.
pub(crate) fn is_lease_there(error: &Error) -> bool {
    drivers(error).is_some_and(|error| says(error, "lease already exists"))
}

/// What the driver had said.
fn drivers(error: &Error) -> Option<&Driver> {
    error.source()?.downcast_ref()
}

/// What lies there is nothing that this library writes.
pub(crate) fn damaged(name: &str) -> Error {
    Error::new(
        ErrorKind::Damaged,
        format!("{name:?} is not what this library writes: does something else write under this root?"),
    )
}

/// The answer is none that such a call has.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the answer to {what} lacks what it should have; is this etcd 3.4 or later?"),
    )
    .effect(Effect::Unknown)
}

const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID: i32 = 3;
const DEADLINE: i32 = 4;
const DENIED: i32 = 7;
const EXHAUSTED: i32 = 8;
const PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

fn explain(error: &Driver) -> (ErrorKind, Effect, &'static str) {
    let Driver::GRpcStatus(status) = error else {
        return match error {
            Driver::InvalidArgs(_) | Driver::InvalidUri(_) => {
                (ErrorKind::Misconfigured, Effect::NotApplied, "see the page about etcd")
            }
            // Nothing else is left of what the driver looks at before it connects.
            Driver::TransportError(_) => (
                ErrorKind::Misconfigured,
                Effect::NotApplied,
                "this machine has no certificates of its own that can be read: name the authority's as ca_file, or have \
                 SSL_CERT_FILE or SSL_CERT_DIR name what is there",
            ),
            _ => (ErrorKind::Unavailable, Effect::Unknown, "the connection ended; it is made anew"),
        };
    };
    let code = status.code() as i32;
    if says(error, "database space exceeded") {
        return (
            ErrorKind::Exhausted,
            Effect::NotApplied,
            "the database is full (NOSPACE): compact, defragment, disarm the alarm, or raise --quota-backend-bytes",
        );
    }
    if says(error, "invalid user ID or password") || says(error, "user name is empty") {
        return (ErrorKind::Denied, Effect::NotApplied, "check user and password");
    }
    if says(error, "authentication is not enabled") {
        return (
            ErrorKind::Denied,
            Effect::NotApplied,
            "the server knows no accounts, and the URL names one: it may have lost its data, and be set up again just now; \
             where there are to be none, the URL names no user",
        );
    }
    if status.source().is_some() {
        // A server with TLS 1.3 looks at the client's certificate behind the handshake, and the driver may lose what it says.
        return (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "is it up, can it be reached from here, does it speak TLS (etcds) exactly where the URL says so, and does it get the \
             client certificate that it asks for (cert_file, key_file)?",
        );
    }
    match code {
        DENIED => (
            ErrorKind::Denied,
            Effect::NotApplied,
            "the account may not do this under this root: the page about etcd says what it needs",
        ),
        UNAUTHENTICATED => (ErrorKind::Denied, Effect::NotApplied, "check user and password"),
        EXHAUSTED => (ErrorKind::Exhausted, Effect::NotApplied, "too much at once: the server asks for less"),
        UNIMPLEMENTED => (ErrorKind::Unsupported, Effect::NotApplied, "it has to be etcd 3.4 or later"),
        INVALID | PRECONDITION => (ErrorKind::Protocol, Effect::NotApplied, "is this etcd 3.4 or later?"),
        _ => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "is it up, can it be reached from here, and has the cluster a leader (etcdctl endpoint status)?",
        ),
    }
}

fn says(error: &Driver, words: &str) -> bool {
    matches!(error, Driver::GRpcStatus(status) if status.message().contains(words))
}
