//! [`RedisSentinels`]: a Redis primary, its replicas, and three sentinels that put a replica in its place when it is lost.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Error, ErrorKind, Result};

use super::account::Account;
use super::redis::Redis;
use super::redis_setup::RedisSetup;
use super::resp::Reply;
use super::waiting::{together, until};
use crate::remote::Loss;

/// By which the sentinels know what they watch.
const NAME: &str = "locks";

/// How many sentinels there are, and how many of them have to agree that the primary is gone.
const SENTINELS: usize = 3;
const QUORUM: usize = 2;

/// Sentinels are made for machines that are far away: what they look at every ten seconds, these look at several times a
/// second. And what they do on a machine that hangs, which is to do nothing for half a minute, these do not.
const QUICK: [&str; 16] = [
    "INFO-PERIOD",
    "200",
    "PUBLISH-PERIOD",
    "200",
    "ASK-PERIOD",
    "100",
    // A replica is passed over that has not answered for five of them.
    "PING-PERIOD",
    "500",
    "TILT-TRIGGER",
    "10000",
    "TILT-PERIOD",
    "1000",
    "ELECTION-TIMEOUT",
    "2000",
    "SLAVE-RECONF-TIMEOUT",
    "2000",
];

/// For how long the primary has to be silent. A replica that has been cut off for longer than ten times this is never put in
/// its place.
const DOWN: &str = "1000";

/// A failover that fails begins again after twice this time.
const FAILOVER: &str = "3000";

/// A Redis primary, its replicas, and three sentinels that watch them. Ends when it is dropped.
#[derive(Debug)]
pub struct RedisSentinels {
    sentinels: Vec<Redis>,
    nodes: Mutex<Vec<Arc<Redis>>>,
    setup: RedisSetup,
    replicas: usize,
    /// The sentinels' at the nodes.
    account: Account,
}

/// How a primary, its replicas and their sentinels are to be started.
#[derive(Clone)]
pub struct RedisSentinelsSetup {
    node: RedisSetup,
    replicas: usize,
    password: Option<String>,
}

impl RedisSentinels {
    /// A primary with one replica, without passwords. Returns once the replica has everything, and all sentinels know
    /// everybody.
    ///
    /// # Errors
    /// Something does not start, or they do not find each other in time.
    pub async fn start() -> Result<RedisSentinels> {
        RedisSentinelsSetup::new().start().await
    }

    /// The name by which the sentinels know the primary: `locks`.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The sentinels. One that is started again knows only what it knew at first.
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// The addresses of the sentinels.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// All nodes, also those that are lost: the first primary, its replicas, then those that came later.
    pub fn nodes(&self) -> Vec<Arc<Redis>> {
        self.all().clone()
    }

    /// The primary whom most of the sentinels name.
    ///
    /// # Errors
    /// They do not agree, or most of them do not answer.
    pub async fn primary(&self) -> Result<Arc<Redis>> {
        let mut named = Vec::new();
        for sentinel in &self.sentinels {
            if let Ok(port) = primary_named_by(sentinel).await {
                named.push(port);
            }
        }
        let agreed = named.iter().find(|port| named.iter().filter(|other| other == port).count() >= QUORUM);
        let port = *agreed.ok_or_else(|| Error::unavailable("the sentinels do not agree on the primary"))?;
        let found = self.all().iter().find(|node| node.port() == port).cloned();
        found.ok_or_else(|| Error::unavailable(format!("no node has port {port}, which the sentinels name")))
    }

    /// The nodes that follow the primary, as it says itself.
    ///
    /// # Errors
    /// There is no primary, or it does not answer.
    pub async fn replicas(&self) -> Result<Vec<Arc<Redis>>> {
        let info = self.primary().await?.info("replication").await?;
        let mut nodes = self.nodes();
        nodes.retain(|node| info.contains(&format!(",port={},", node.port())));
        Ok(nodes)
    }

    /// Waits until the replicas have everything so far, and cuts them off: what the primary acknowledges from now on never
    /// reaches them. They take over from it only if it is lost within ten seconds.
    ///
    /// # Errors
    /// The primary has no replica.
    pub async fn hold_back_replicas(&self) -> Result<()> {
        self.primary().await?.hold_back_replicas().await
    }

    /// The primary is lost in this way. Returns once another node is primary, takes writes and has as many replicas as the first
    /// one had, so that it can be lost too. Returns the node that is lost; one that is stopped may be killed now.
    ///
    /// # Errors
    /// No replica takes over in time.
    pub async fn lose_primary(&self, how: Loss) -> Result<Arc<Redis>> {
        let lost = self.primary().await?;
        match how {
            Loss::Killed => lost.kill().await?,
            Loss::Stopped => lost.stop()?,
        }
        self.is_replaced(&lost).await?;
        Ok(lost)
    }

    /// The sentinels and the replicas cannot reach the primary any more, but clients can: it goes on as one. Returns once
    /// another node is primary, as [`lose_primary`](RedisSentinels::lose_primary) does, with the node that is cut off.
    ///
    /// # Errors
    /// The nodes have no password: then everybody is let in whoever asks, the sentinels too. Or no replica takes over in time.
    pub async fn isolate_primary(&self) -> Result<Arc<Redis>> {
        if self.setup.password.is_none() {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                "a primary without a password cannot be cut off from its sentinels: give the nodes one",
            ));
        }
        let cut_off = self.primary().await?;
        cut_off.account_of_replicas()?.close(&cut_off).await?;
        self.account.close(&cut_off).await?;
        self.is_replaced(&cut_off).await?;
        Ok(cut_off)
    }

    async fn is_replaced(&self, lost: &Redis) -> Result<()> {
        let what = format!("a replica takes over from {}", lost.address());
        let next = until(&what, async || {
            let next = self.primary().await?;
            Ok((next.port() != lost.port() && next.is_primary().await?).then_some(next))
        })
        .await?;
        let replica = self.setup.clone().start_replica_of(&next).await?;
        self.all().push(Arc::new(replica));
        self.are_watched(&next).await?;
        let what = format!("{} takes writes", next.address());
        until(&what, async || Ok(next.takes_writes("takes-writes").await?.then_some(()))).await
    }

    /// Waits until each sentinel knows the primary, as many healthy replicas as there should be, and the other sentinels.
    async fn are_watched(&self, primary: &Redis) -> Result<()> {
        let what = format!("the sentinels know {} and {} replicas", primary.address(), self.replicas);
        for sentinel in &self.sentinels {
            if sentinel.server().is_err() {
                continue;
            }
            until(&what, async || self.is_watched_by(sentinel, primary).await).await?;
        }
        Ok(())
    }

    async fn is_watched_by(&self, sentinel: &Redis, primary: &Redis) -> Result<Option<()>> {
        let quorum = sentinel.text(&["SENTINEL", "CKQUORUM", NAME]).await?;
        let others = sentinel.answer(&["SENTINEL", "SENTINELS", NAME]).await?;
        let replicas = sentinel.answer(&["SENTINEL", "REPLICAS", NAME]).await?;
        let port = primary.port().to_string();
        let follows = |replica: &&Reply| {
            told(replica, "flags") == Some("slave")
                && told(replica, "master-link-status") == Some("ok")
                && told(replica, "master-port") == Some(&port)
        };
        let knows_all = primary_named_by(sentinel).await? == primary.port()
            && quorum.starts_with("OK")
            && listed(&others).len() == SENTINELS - 1
            && listed(&replicas).iter().filter(follows).count() >= self.replicas;
        Ok(knows_all.then_some(()))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Redis>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn primary_named_by(sentinel: &Redis) -> Result<u16> {
    match sentinel.answer(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await? {
        Reply::List(address) => match &address[..] {
            [_, Reply::Text(port)] => port.parse().ok(),
            _ => None,
        },
        _ => None,
    }
    .ok_or_else(|| Error::unavailable("it knows no primary").at(sentinel.address()))
}

fn listed(reply: &Reply) -> &[Reply] {
    if let Reply::List(list) = reply { list } else { &[] }
}

/// What a sentinel says about a node: names and values, one after the other.
fn told<'a>(node: &'a Reply, name: &str) -> Option<&'a str> {
    listed(node).chunks_exact(2).find_map(|pair| match pair {
        [Reply::Text(key), Reply::Text(value)] if key == name => Some(&**value),
        _ => None,
    })
}

impl RedisSentinelsSetup {
    /// One replica, no passwords, and nothing else asked of the nodes.
    pub fn new() -> RedisSentinelsSetup {
        RedisSentinelsSetup { node: RedisSetup::new(), replicas: 1, password: None }
    }

    /// How the primary and its replicas are to be started. Sentinels speak TLS as they do.
    #[must_use]
    pub fn nodes(mut self, setup: RedisSetup) -> RedisSentinelsSetup {
        self.node = setup;
        self
    }

    /// How many replicas, at least one.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> RedisSentinelsSetup {
        self.replicas = replicas.max(1);
        self
    }

    /// A password that the sentinels ask for, also of each other.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> RedisSentinelsSetup {
        self.password = Some(password.into());
        self
    }

    /// Starts everything. Returns once every replica has everything, and all sentinels know everybody.
    ///
    /// # Errors
    /// Something does not start, or they do not find each other in time.
    pub async fn start(self) -> Result<RedisSentinels> {
        let account = Account::sentinel();
        let mut node = self.node.clone().replicated();
        node.lines += &account.line();
        let primary = Arc::new(node.clone().start().await?);
        let replica = |_| {
            let (setup, primary) = (node.clone(), Arc::clone(&primary));
            async move { setup.start_replica_of(&primary).await.map(Arc::new) }
        };
        let sentinel = self.sentinel(&account, &primary);
        let (replicas, sentinels) = tokio::try_join!(
            together((0..self.replicas).map(replica)),
            together((0..SENTINELS).map(|_| start_sentinel(sentinel.clone()))),
        )?;
        let nodes = Mutex::new([vec![Arc::clone(&primary)], replicas].concat());
        let all = RedisSentinels { sentinels, nodes, setup: node, replicas: self.replicas, account };
        all.are_watched(&primary).await?;
        Ok(all)
    }

    fn sentinel(&self, account: &Account, primary: &Redis) -> RedisSetup {
        let mut setup = RedisSetup::new().program("redis-sentinel");
        setup.tls.clone_from(&self.node.tls);
        setup.password.clone_from(&self.password);
        let at = primary.endpoint();
        let mut lines = format!("sentinel monitor {NAME} {} {} {QUORUM}\n", at.ip(), at.port());
        for (setting, value) in [
            ("down-after-milliseconds", DOWN),
            ("failover-timeout", FAILOVER),
            ("parallel-syncs", "1"),
            ("auth-user", account.name()),
            ("auth-pass", account.secret()),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "sentinel {setting} {NAME} {value}");
        }
        setup.lines = lines;
        setup
    }
}

async fn start_sentinel(setup: RedisSetup) -> Result<Redis> {
    let sentinel = setup.start().await?;
    sentinel.done(&[&["SENTINEL", "DEBUG"][..], &QUICK].concat()).await?;
    Ok(sentinel)
}

impl Default for RedisSentinelsSetup {
    fn default() -> RedisSentinelsSetup {
        RedisSentinelsSetup::new()
    }
}

impl fmt::Debug for RedisSentinelsSetup {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSentinelsSetup")
            .field("node", &self.node)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
