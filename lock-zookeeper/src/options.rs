//! [`ZooKeeperOptions`]: how a store in ZooKeeper is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lock_core::Secret;
use lock_tls::TlsFiles;

/// How a store in ZooKeeper is used.
///
/// ```
/// use std::time::Duration;
/// use lock_zookeeper::ZooKeeperOptions;
///
/// let options = ZooKeeperOptions::new().root("billing/locks").tick(Duration::from_secs(2));
/// # let _ = options;
/// ```
#[derive(Clone)]
pub struct ZooKeeperOptions {
    pub(crate) root: String,
    pub(crate) tick: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) account: Option<Account>,
    pub(crate) access: Option<Access>,
    pub(crate) files: TlsFiles,
    pub(crate) tls: bool,
}

/// Who may do what with the nodes that are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Whoever shows the same identity as their creator, and nobody else.
    Creator,
    /// Everybody who reaches the servers.
    World,
}

/// An account, and how it is shown to the servers.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) with_sasl: bool,
}

impl ZooKeeperOptions {
    /// Root `fencepost`, servers with a tick of two seconds, five seconds to connect, no account, no TLS.
    pub fn new() -> ZooKeeperOptions {
        ZooKeeperOptions {
            root: "fencepost".to_owned(),
            tick: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            account: None,
            access: None,
            files: TlsFiles::default(),
            tls: false,
        }
    }

    /// The path under which every node lies, without a slash at either end: 1 to 200 ASCII letters, digits or any of `- _ . :`,
    /// and single slashes. Whoever is to share locks uses the same one.
    #[must_use]
    pub fn root(mut self, root: impl Into<String>) -> ZooKeeperOptions {
        self.root = root.into();
        self
    }

    /// The servers' `tickTime`, or more: they may end a session by so much sooner than the client could know. A session for which
    /// they grant less than four of them is refused.
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> ZooKeeperOptions {
        self.tick = tick;
        self
    }

    /// How long one attempt to connect may take: five seconds if this is not called, and another second to find out why. One server
    /// has a quarter of the session's time at most, and of several only so much of this that a minority which says nothing leaves
    /// time for the others. It is also the time after which a connection on which nothing is heard is given up for another one.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> ZooKeeperOptions {
        self.connect_timeout = limit;
        self
    }

    /// An account by the scheme `digest`. The servers know no such accounts: a wrong password is one that other nodes do not
    /// let in. It is sent as it is: without TLS it can be read on its way.
    #[must_use]
    pub fn digest(mut self, user: impl Into<String>, password: Secret) -> ZooKeeperOptions {
        self.account = Some(Account { user: user.into(), password, with_sasl: false });
        self
    }

    /// An account that the servers know, by SASL with DIGEST-MD5.
    #[must_use]
    pub fn sasl(mut self, user: impl Into<String>, password: Secret) -> ZooKeeperOptions {
        self.account = Some(Account { user: user.into(), password, with_sasl: true });
        self
    }

    /// Who may do what with the nodes that are created: [`Access::Creator`] with an account, [`Access::World`] without one, unless
    /// this says otherwise. A client certificate that the servers take for an identity is one for `Creator` too.
    #[must_use]
    pub fn access(mut self, access: Access) -> ZooKeeperOptions {
        self.access = Some(access);
        self
    }

    /// Through TLS. Servers are vouched for by the machine's own authorities unless there is a
    /// [`ca_file`](ZooKeeperOptions::ca_file).
    #[must_use]
    pub fn tls(mut self) -> ZooKeeperOptions {
        self.tls = true;
        self
    }

    /// With TLS: a file of certificates (PEM) that servers are to be vouched for by, in place of the machine's own. As with
    /// [`certificate`](ZooKeeperOptions::certificate), it is read for each session, so that it may be renewed.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> ZooKeeperOptions {
        self.files.authority = Some(path.into());
        self
    }

    /// With TLS: the files (PEM) of the client's certificate, with those that vouch for it, and of its private key.
    #[must_use]
    pub fn certificate(
        mut self,
        cert_file: impl Into<PathBuf>,
        key_file: impl Into<PathBuf>,
    ) -> ZooKeeperOptions {
        self.files.identity = Some((cert_file.into(), key_file.into()));
        self
    }

    /// Who may do what with a node that is created now.
    pub(crate) fn access_in_force(&self) -> Access {
        match self.access {
            Some(access) => access,
            None if self.account.is_some() => Access::Creator,
            None => Access::World,
        }
    }
}

impl Default for ZooKeeperOptions {
    fn default() -> ZooKeeperOptions {
        ZooKeeperOptions::new()
    }
}

impl fmt::Debug for ZooKeeperOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperOptions")
            .field("root", &self.root)
            .field("tick", &self.tick)
            .field("connect_timeout", &self.connect_timeout)
            .field("user", &self.account.as_ref().map(|account| &account.user))
            .field("access", &self.access)
            .field("tls", &self.tls)
            .field("files", &self.files)
            .finish()
    }
}
