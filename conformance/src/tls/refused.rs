//! Whoever is not whom they claim to be is refused, and the error says why.

use lock_core::{BootTime, Clock, Effect, Error, ErrorKind, LockClient, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{CONNECT_TIMEOUT, PASSWORD, TlsStore, flaws, query};
use crate::servers::{Authority, Certificate, Tls};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

/// A server whose certificate has a [flaw](super::Flaw) is refused, whichever it is, and nobody tries it again.
///
/// # Errors
/// What has failed.
pub async fn impostors<S: TlsStore>(store: &S) -> Verdict {
    let authority = Authority::new()?;
    for flaw in flaws(&authority)? {
        let server = store.start(Some(&Tls::new(&authority, flaw.certificate)), true).await?;
        let url = url(store, &server, &query(authority.certificate(), None));
        let error = refused(store.connect(&url).await, flaw.name)?;
        is_denied(store, &server, &error, flaw.check)?;
        is_denied(store, &server, &error, flaw.advice)?;

        // Nobody tries it again before the patience is over.
        let client = LockClient::builder(store.open(&url)?).build()?;
        let clock = SystemClock::new();
        let begun = clock.boot();
        let error = refused(client.mutex("k")?.acquire().await, flaw.name)?;
        is_denied(store, &server, &error, flaw.check)?;
        in_time(&clock, begun, 1)?;
    }
    Ok(())
}

/// Without a `ca_file` the machine's own authorities count, and none of them has signed the server's certificate.
///
/// # Errors
/// What has failed.
pub async fn without_ca_file<S: TlsStore>(store: &S) -> Verdict {
    let authority = Authority::new()?;
    let server = store.start(Some(&Tls::new(&authority, authority.server()?)), true).await?;
    let error = refused(store.connect(&url(store, &server, "")).await, "of an unknown authority")?;
    is_denied(store, &server, &error, "UnknownIssuer")?;
    is_denied(store, &server, &error, "ca_file")
}

/// A client is told what is wrong with its certificate: by these words when it has none, when its own has expired, and when it is
/// of an authority that the server does not know. With a good one it is let in.
///
/// The server requires them, goes by this authority, and has the [`PASSWORD`].
///
/// # Errors
/// What has failed.
pub async fn clients<S: TlsStore>(
    store: &S,
    server: &S::Server,
    authority: &Authority,
    [none, expired, unknown]: [&str; 3],
) -> Verdict {
    let stranger = Authority::new()?;
    let url = |client: Option<&Certificate>| url(store, server, &query(authority.certificate(), client));
    for (client, words) in [
        (None, none),
        (Some(authority.expired_client("locks")?), expired),
        (Some(stranger.client("locks")?), unknown),
    ] {
        // The server refuses it behind the handshake, or ends the connection at once: each time the news has to arrive.
        for _ in 0..5 {
            let error = refused(store.connect(&url(client.as_ref())).await, "as a client")?;
            is_denied(store, server, &error, "received fatal alert")?;
            is_denied(store, server, &error, words)?;
        }
    }
    store.connect(&url(Some(&authority.client("locks")?))).await?;
    Ok(())
}

/// Plain text to a port with TLS is an error at once, which asks for TLS.
///
/// # Errors
/// What has failed.
pub async fn plain_text<S: TlsStore>(store: &S) -> Verdict {
    let authority = Authority::new()?;
    let server = store.start(Some(&Tls::new(&authority, authority.server()?)), true).await?;
    let clock = SystemClock::new();
    let begun = clock.boot();
    let url = format!("{}://{}", store.scheme(), store.address(&server));
    let error = refused(store.connect(&url).await, "without TLS")?;
    in_time(&clock, begun, 1)?;
    expect_eq("kind", (error.kind(), error.is_retryable()), (&ErrorKind::Unavailable, true))?;
    says(&error, &format!("speak TLS ({}s)", store.scheme()))
}

/// TLS to a port without is an error in time, also where the server waits for the end of what it takes for a line.
///
/// # Errors
/// What has failed.
pub async fn to_a_server_without<S: TlsStore>(store: &S) -> Verdict {
    let (authority, server) = (Authority::new()?, store.start(None, false).await?);
    let clock = SystemClock::new();
    let begun = clock.boot();
    let url = url(store, &server, &query(authority.certificate(), None));
    let error = refused(store.connect(&url).await, "with TLS")?;
    in_time(&clock, begun, 2)?;
    says(&error, "speak TLS")?;
    let kind_and_whether_it_passes = (error.kind().clone(), error.is_retryable());
    let allowed = [(ErrorKind::Unavailable, true), (ErrorKind::Misconfigured, false)];
    expect(allowed.contains(&kind_and_whether_it_passes), format_args!("one of {allowed:?}"), error)
}

/// A server of another kind, or a proxy, that answers with something else: it is said to speak no TLS.
///
/// # Errors
/// What has failed.
pub async fn something_else<S: TlsStore>(store: &S) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let _answering = JoinSet::from_iter([async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }]);
    let error = refused(store.connect(&format!("{}s://{address}", store.scheme())).await, "with TLS")?;
    expect_eq("kind", (error.kind(), error.is_retryable()), (&ErrorKind::Misconfigured, false))?;
    says(&error, "does not speak TLS")?;
    says(&error, &format!("without it, the URL begins with {}", store.scheme()))
}

/// Of whoever may do everything.
fn url<S: TlsStore>(store: &S, server: &S::Server, query: &str) -> String {
    format!("{}s://{}@{}?{query}", store.scheme(), store.login(), store.address(server))
}

fn refused<T>(answer: lock_core::Result<T>, who: &str) -> Verdict<Error> {
    answer.err().ok_or_else(|| Failure::new(format_args!("a refusal ({who})"), "none"))
}

fn is_denied<S: TlsStore>(store: &S, server: &S::Server, error: &Error, words: &str) -> Verdict {
    expect_eq(
        "kind",
        (error.kind(), error.is_retryable(), error.took_effect()),
        (&ErrorKind::Denied, false, Effect::NotApplied),
    )
    .map_err(|failure| failure.within(error))?;
    says(error, words)?;
    let address = store.address(server);
    expect(
        error.endpoint().is_some_and(|endpoint| endpoint.contains(&address)),
        format_args!("the endpoint {address}"),
        error,
    )?;
    expect(!format!("{error:?}").contains(PASSWORD), "no password in an error", format_args!("{error:?}"))
}

fn says(error: &Error, words: &str) -> Verdict {
    expect(error.message().contains(words), format_args!("an error that says: {words}"), error)
}

fn in_time(clock: &SystemClock, begun: BootTime, patience: u32) -> Verdict {
    let took = clock.boot().since(begun);
    let limit = CONNECT_TIMEOUT * patience;
    expect(took < limit, format_args!("an answer in less than {limit:?}"), format_args!("one in {took:?}"))
}
