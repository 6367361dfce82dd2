//! [`Address`]: how servers name each other.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo};

use crate::options::RedisOptions;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn new(host: impl Into<String>, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    pub(crate) fn of((host, port): (&str, u64)) -> Option<Address> {
        Some(Address::new(host, u16::try_from(port).ok()?))
    }

    /// `HOST:PORT`, as MOVED says it. An IPv6 address has no brackets there, and what does not know its own host leaves it out:
    /// `None` then stands for whoever said so.
    pub(crate) fn parse(text: &str) -> Option<(Option<&str>, u16)> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some((Some(host).filter(|host| !host.is_empty() && *host != "?"), port.parse().ok()?))
    }

    /// As the options say.
    pub(crate) fn reached_from_here(&self, options: &RedisOptions) -> Address {
        match &options.address_map {
            Some(map) => {
                let (host, port) = map(&self.host, self.port);
                Address { host, port }
            }
            None => self.clone(),
        }
    }

    /// A server at this address, otherwise reached as that one.
    pub(crate) fn info(&self, like: &ConnectionInfo) -> ConnectionInfo {
        let Address { host, port } = self.clone();
        let address = match like.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        like.clone().set_addr(address)
    }

    pub(crate) fn is_with_tls(info: &ConnectionInfo) -> bool {
        matches!(info.addr(), ConnectionAddr::TcpTls { .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_node_says_it() {
        assert_eq!(Address::parse("10.0.0.1:6379"), Some((Some("10.0.0.1"), 6379)));
        assert_eq!(Address::parse("::1:6379"), Some((Some("::1"), 6379)));
        assert_eq!(Address::parse("node-1.example:6379"), Some((Some("node-1.example"), 6379)));
        assert_eq!(Address::parse(":6379"), Some((None, 6379)));
        for wrong in ["", "host", "host:", "host:x", "host:70000"] {
            assert_eq!(Address::parse(wrong), None, "{wrong:?}");
        }
    }
}
