//! [`free_port`]: a port that nobody else gets, also while its server is down.

use std::collections::BTreeSet;
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
