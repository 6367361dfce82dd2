//! [`Account`]: a user of a Redis server that belongs to other servers, not to clients.
//!
//! It is how a server is cut off from another one without a network in between: its account is closed, and its connections
//! are ended. Clients, who have other accounts, notice nothing.

use std::fmt;

use lock_core::Result;

use super::redis::Redis;

/// A user with a password of its own. It stands in the configuration, so it is there again after another start.
#[derive(Clone)]
pub(super) struct Account {
    name: &'static str,
    rights: &'static str,
    secret: String,
}

impl Account {
    /// A replica's at its primary.
    pub(super) fn replica() -> Account {
        Account::new("replica", "+psync +replconf +ping")
    }

    /// A sentinel's at the servers that it watches; from the documentation of Redis.
    pub(super) fn sentinel() -> Account {
        Account::new(
            "sentinel",
            "allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info \
             +client|setname +client|kill +script|kill",
        )
    }

    fn new(name: &'static str, rights: &'static str) -> Account {
        Account { name, rights, secret: secret() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// As it stands in the configuration of the server whose user it is.
    pub(super) fn line(&self) -> String {
        format!("user {} on >{} {}\n", self.name, self.secret, self.rights)
    }

    /// Nobody comes in with it any more, and whoever is in is thrown out.
    pub(super) async fn close(&self, server: &Redis) -> Result<()> {
        server.done(&["ACL", "SETUSER", self.name, "off"]).await?;
        server.done(&["CLIENT", "KILL", "USER", self.name]).await
    }

    pub(super) async fn open(&self, server: &Redis) -> Result<()> {
        server.done(&["ACL", "SETUSER", self.name, "on"]).await
    }
}

/// A password for servers that end with their test.
pub(super) fn secret() -> String {
    format!("{:032x}", fastrand::u128(..))
}

impl fmt::Debug for Account {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}
