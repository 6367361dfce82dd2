//! [`free_port`]: a port that nobody else gets, also while its server is down.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

use lock_core::{Error, ErrorKind, Result};

/// Below the ports from which clients call. Otherwise a client could call from a server's port while the server is down,
/// and the server could not come back; it could even reach itself.
const RANGE: Range<u16> = 15_000..32_000;

/// A port of 127.0.0.1 for a TCP server, reserved until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The reservation: one process at a time has the UDP port of this number, and the kernel forgets it with the
    /// process.
    _reserved: UdpSocket,
}

impl Port {
    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// A port that no server listens on, and that no other test gets from here, in whatever process it runs.
pub fn free_port() -> Result<Port> {
    const ATTEMPTS: usize = 1000;
    let mut tried = BTreeSet::new();
    for _ in 0..ATTEMPTS {
        let number = fastrand::u16(RANGE);
        if !tried.insert(number) {
            continue;
        }
        let Ok(reserved) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
        // On all addresses: somebody else's server may listen on those.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
            return Ok(Port { number, _reserved: reserved });
        }
    }
    Err(Error::new(ErrorKind::Exhausted, format!("no free port among {} of {RANGE:?}", tried.len())))
}

/// Starts something on free ports: on others where somebody else's server was faster, which reserves none.
pub(super) async fn on_free_ports<T, F>(mut start: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    const ATTEMPTS: usize = 4;
    let is_taken = |error: &Error| error.message().contains("already in use");
    for _ in 1..ATTEMPTS {
        match start().await {
            Err(error) if is_taken(&error) => {}
            outcome => return outcome,
        }
    }
    start().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn attempts(error: &str) -> (usize, Error) {
        let mut attempts = 0;
        let outcome: Result<()> = on_free_ports(|| {
            attempts += 1;
            std::future::ready(Err(Error::unavailable(error)))
        })
        .await;
        (attempts, outcome.unwrap_err())
    }

    #[tokio::test]
    async fn only_a_port_that_is_taken_is_changed_for_another_and_not_for_ever() {
        let (number, error) = attempts("bind: Address already in use").await;
        assert_eq!(number, 4, "{error}");
        let (number, error) = attempts("no such program").await;
        assert_eq!(number, 1, "{error}");
    }
}
