//! What the driver's errors mean for a lock.

use std::error::Error as StdError;

use lock_core::{Effect, Error, ErrorKind};
use lock_tls::{Words, explain_refusal};
use sqlx::Error as Driver;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

const WORDS: Words = Words { scheme: "postgres", bad_certificate: None };

/// An error of a statement, or of a connection that was to be made.
pub(crate) fn failed(error: Driver) -> Error {
    if let Some((kind, advice)) = tls_refusal(&error) {
        return Error::new(kind, format!("no TLS with the server: {advice}"))
            .effect(Effect::NotApplied)
            .caused_by(error);
    }
    if is_of_a_file(&error) {
        return Error::new(ErrorKind::Misconfigured, BAD_FILE).effect(Effect::NotApplied);
    }
    let (kind, effect, advice) = match &error {
        Driver::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(refusal) if refusal.code() == OF_POOLERS => explain_pooler(refusal.message()),
            Some(refusal) => explain(refusal.code()),
            None => (ErrorKind::Protocol, Effect::Unknown, "is this PostgreSQL?"),
        },
        Driver::Io(_) | Driver::WorkerCrashed => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "is it up, can it be reached from here, and does it speak TLS where sslmode asks for it?",
        ),
        Driver::Tls(_) => (
            ErrorKind::Denied,
            Effect::NotApplied,
            "TLS was not agreed on: check sslmode, sslrootcert, sslcert, sslkey, and for whom the server's certificate is",
        ),
        // The driver's pool tries again where no connection is left, and does not say so.
        Driver::PoolTimedOut | Driver::PoolClosed => (
            ErrorKind::Unavailable,
            Effect::NotApplied,
            "no connection for news could be made in time: is one left for this role and database? (two are needed for each process)",
        ),
        // What another client listens to: it has had the same connection of the server before.
        Driver::Protocol(said) if said.contains("NotificationResponse") => {
            (ErrorKind::Misconfigured, Effect::Unknown, POOLER)
        }
        Driver::Protocol(_) => {
            (ErrorKind::Protocol, Effect::Unknown, "is this PostgreSQL, and nothing in between?")
        }
        _ => (ErrorKind::Protocol, Effect::Unknown, "the answer is none that such a statement has"),
    };
    let said = match &error {
        // The rest of what the server says is in the source.
        Driver::Database(database) => database.message().to_owned(),
        other => other.to_string(),
    };
    Error::new(kind, format!("{said}; {advice}")).effect(effect).caused_by(error)
}

/// The same of the first statements on a connection, whose answers are known: any other is one to somebody else's statement.
pub(crate) fn failed_at_first(error: Driver) -> Error {
    let error = match error {
        Driver::RowNotFound | Driver::ColumnDecode { .. } | Driver::ColumnIndexOutOfBounds { .. } => {
            Error::new(ErrorKind::Misconfigured, format!("the answer is one to another statement: {POOLER}"))
                .caused_by(error)
        }
        other => failed(other),
    };
    // Nothing was asked yet.
    error.effect(Effect::NotApplied)
}

const BAD_FILE: &str = "a file for TLS cannot be used: sslrootcert, sslcert and sslkey are PEM, the key has no password, and the last two \
     belong together";

/// Whether the driver cannot read a file. What it says of one may repeat a line of it as the numbers of its bytes, and that be a key's.
fn is_of_a_file(error: &Driver) -> bool {
    const SAID: [&str; 4] = ["section start", "section end", "base64", "no items"];
    match error {
        Driver::Configuration(_) => true,
        Driver::Tls(error) => {
            let said = error.to_string();
            SAID.iter().any(|words| said.contains(words))
        }
        _ => false,
    }
}

/// Why TLS is the reason that there is no connection.
fn tls_refusal(error: &Driver) -> Option<(ErrorKind, String)> {
    let mut next: Option<&(dyn StdError + 'static)> = match error {
        Driver::Io(error) => Some(error),
        Driver::Tls(error) => Some(&**error),
        _ => None,
    };
    while let Some(error) = next {
        if let Some((kind, advice)) = explain_refusal(error, &WORDS) {
            return Some((kind, in_the_words_of_postgres(&advice)));
        }
        next = error.source();
    }
    None
}

/// Files have other names in a URL of Postgres than elsewhere, and TLS is no scheme.
fn in_the_words_of_postgres(advice: &str) -> String {
    [
        ("ca_file", "sslrootcert"),
        ("cert_file", "sslcert"),
        ("key_file", "sslkey"),
        ("the URL begins with postgres", "sslmode is disable"),
    ]
    .iter()
    .fold(advice.to_owned(), |advice, (elsewhere, here)| advice.replace(elsewhere, here))
}

/// Whether the connection is of no more use after this.
pub(crate) fn ends_the_connection(error: &Driver) -> bool {
    match error {
        Driver::Database(database) => database.try_downcast_ref::<PgDatabaseError>().is_none_or(|refusal| {
            !matches!(refusal.severity(), PgSeverity::Error) || is_of_a_pooler(refusal.code())
        }),
        Driver::ColumnDecode { .. } | Driver::Decode(_) | Driver::RowNotFound => false,
        _ => true,
    }
}

/// Whether somebody else was at a row that the statement wanted.
pub(crate) fn is_locked(error: &Error) -> bool {
    let driver = error.source().and_then(|source| source.downcast_ref::<Driver>());
    driver.is_some_and(|driver| trouble(driver) == Trouble::Locked)
}

/// Whose trouble it is that the server has refused a statement with several claims and releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// One's of them: others may get through without it.
    Ones,
    /// One's of them, whose row somebody else is at.
    Locked,
    Everybody,
    /// The server had ended the connection before it came: for only one that is idle ends for this reason.
    Unheard,
}

pub(crate) fn trouble(error: &Driver) -> Trouble {
    match code(error).as_deref() {
        Some("55P03") => Trouble::Locked,
        Some("57P05") => Trouble::Unheard,
        // Values, constraints, and a row at which others are.
        Some(code) if ["22", "23", "40"].iter().any(|class| code.starts_with(class)) => Trouble::Ones,
        _ => Trouble::Everybody,
    }
}

/// The code by which the server says what is wrong.
pub(crate) fn code(error: &Driver) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// The answer is none that such a statement has.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the answer to {what} lacks what it should have: is the schema the one of this version?"),
    )
    .effect(Effect::Unknown)
}

/// Statements that were prepared are not known any more, or known already: somebody deals out the server's connections.
fn is_of_a_pooler(code: &str) -> bool {
    matches!(code, "26000" | "42P05" | OF_POOLERS)
}

/// PgBouncer says all that it has to say by itself under this code.
const OF_POOLERS: &str = "08P01";

pub(crate) const POOLER: &str = "there is a pooler in between that gives each transaction another connection of the server (pool_mode \
     transaction or statement): neither prepared statements nor LISTEN work there. Connect to the server itself, or to a pool with \
     pool_mode session: the locks take two connections for each process";

fn explain_pooler(said: &str) -> (ErrorKind, Effect, &'static str) {
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if says(&["prepared statement", "statement pooling"]) {
        (ErrorKind::Misconfigured, Effect::NotApplied, POOLER)
    } else if says(&["startup parameter", "no such database"]) {
        (
            ErrorKind::Misconfigured,
            Effect::NotApplied,
            "the pooler in between does not take it: see its configuration, or connect to the server itself",
        )
    } else if says(&["authentication failed", "no such user", "not allowed"]) {
        (
            ErrorKind::Denied,
            Effect::NotApplied,
            "check user and password, and the list of users of the pooler in between",
        )
    } else {
        // Its server is gone or has no connection left, or it ends itself.
        (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "the pooler in between has no connection of the server for this one; it passes, unless the pool is too small: the locks \
             take two connections for each process",
        )
    }
}

fn explain(code: &str) -> (ErrorKind, Effect, &'static str) {
    use Effect::{NotApplied, Unknown};
    match code {
        _ if is_of_a_pooler(code) => (ErrorKind::Misconfigured, NotApplied, POOLER),
        // It may have come while a commit waited for a standby, and the commit stands.
        "57P01" | "57P02" => {
            (ErrorKind::Unavailable, Unknown, "the server ended the connection; it is made anew")
        }
        "57P05" => (ErrorKind::Unavailable, NotApplied, "the connection was idle, and is made anew"),
        "57P03" => (ErrorKind::Unavailable, NotApplied, "the server starts, or shuts down; it passes"),
        "53300" | "53400" => (
            ErrorKind::Unavailable,
            NotApplied,
            "no connection is left: raise max_connections or the limit of the role or database (two are needed for each process)",
        ),
        "53100" | "53200" | "53000" => {
            (ErrorKind::Exhausted, NotApplied, "the server is out of space or memory")
        }
        "25006" => (
            ErrorKind::Exhausted,
            NotApplied,
            "the server takes no writes: it is a standby, or default_transaction_read_only is on",
        ),
        "28P01" | "28000" => (ErrorKind::Denied, NotApplied, "check user and password, and pg_hba.conf"),
        "42501" => (
            ErrorKind::Denied,
            NotApplied,
            "the role may not do this: it needs USAGE on the schema and EXECUTE on its functions; making the schema takes CREATE on \
             the database, or somebody else who runs `fencepost schema postgres`",
        ),
        "3D000" => {
            (ErrorKind::Misconfigured, NotApplied, "name a database that exists, as postgres://host/database")
        }
        "3F000" | "42883" | "42P01" | "42704" => (
            ErrorKind::Misconfigured,
            NotApplied,
            "the schema is missing here, or is another version's: `fencepost schema postgres` prints it, and migrate=always makes it",
        ),
        "40001" | "40P01" | "55P03" => {
            (ErrorKind::Unavailable, NotApplied, "somebody else was at the same rows; it passes")
        }
        "57014" => (
            ErrorKind::TimedOut,
            NotApplied,
            "the server cancelled it: is statement_timeout below what a commit takes here?",
        ),
        _ if code.starts_with("08") => {
            (ErrorKind::Unavailable, Unknown, "the connection ended; it is made anew")
        }
        _ if code.starts_with("58") || code.starts_with("XX") => {
            (ErrorKind::Unavailable, NotApplied, "the server has trouble of its own: see its log")
        }
        _ => (ErrorKind::Protocol, NotApplied, "see the page about Postgres"),
    }
}
