//! [`flaws`]: what can be wrong with a server's certificate.

use lock_core::Result;

use crate::servers::{Authority, Certificate};

/// Something that is wrong with a server's certificate.
#[derive(Clone, Debug)]
pub struct Flaw {
    /// What it is: `expired`.
    pub name: &'static str,
    /// A certificate that has it.
    pub certificate: Certificate,
    /// What whoever checks it says.
    pub check: &'static str,
    /// What the error tells one to do.
    pub advice: &'static str,
}

/// One of each kind, for clients that go by this authority and connect to `127.0.0.1`.
///
/// # Errors
/// The certificates cannot be written.
pub fn flaws(authority: &Authority) -> Result<Vec<Flaw>> {
    let flaw = |name, certificate: Result<Certificate>, check, advice| {
        Ok(Flaw { name, certificate: certificate?, check, advice })
    };
    [
        flaw("expired", authority.expired_server(), "certificate expired", "renew it there"),
        flaw(
            "for another host",
            authority.server_named(["elsewhere.test"]),
            "not valid for name \"127.0.0.1\"",
            "connect to one of its names",
        ),
        flaw("of an authority that nobody knows", Authority::new()?.server(), "BadSignature", "ca_file"),
        flaw(
            "a client's, which is none for a server",
            authority.client("127.0.0.1"),
            "server authentication",
            "not accepted",
        ),
    ]
    .into_iter()
    .collect()
}
