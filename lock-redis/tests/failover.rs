//! A primary and a replica, one of which takes over from the other: what happens then is what the page says.
//!
//! Clients reach the primary through an address that moves with it. That is not Sentinel: nobody here decides by itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_conformance::proxy::{Proxy, Way};
use lock_conformance::servers::{Redis, RedisSetup, Reply, WallClock};
use lock_conformance::{CONNECT_TIMEOUT, Fixture, Loss, Remote, Suite};
use lock_core::{
    Backend, Certainty, Clock, Error, Fence, FencingToken, LockKey, Mode, Result, Session, SystemClock,
    async_trait,
};
use lock_redis::{RedisOptions, redis};

use crate::common::{SECOND, mutex, session, token};

/// A replica need not wait whether another one comes.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// In microseconds.
const HOUR: u64 = 60 * MINUTE;
const MINUTE: u64 = 60_000_000;

struct Pair {
    /// The address that moves.
    front: Proxy,
    nodes: Mutex<Nodes>,
}

#[derive(Clone)]
struct Nodes {
    primary: Arc<Redis>,
    replica: Arc<Redis>,
    /// On the way from one to the other.
    link: Proxy,
}

impl Pair {
    async fn start() -> Result<Pair> {
        Pair::with(RedisSetup::new()).await
    }

    /// With this replica.
    async fn with(replica: RedisSetup) -> Result<Pair> {
        let primary = Arc::new(RedisSetup::new().arguments(AT_ONCE).start().await?);
        let nodes = Nodes::behind(primary, replica).await?;
        Ok(Pair { front: Proxy::to(nodes.primary.address()).await?, nodes: Mutex::new(nodes) })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// A primary, and a replica that has all that it has.
    async fn behind(primary: Arc<Redis>, replica: RedisSetup) -> Result<Nodes> {
        let link = Proxy::to(primary.address()).await?;
        let of = format!("127.0.0.1 {}", link.port());
        let setup = replica.arguments(AT_ONCE).arguments(["--replicaof", &of]);
        let nodes = Nodes { primary, replica: Arc::new(setup.start().await?), link };
        nodes.synchronized().await?;
        Ok(nodes)
    }

    async fn synchronized(&self) -> Result<()> {
        let clock = SystemClock::new();
        let end = clock.boot() + CONNECT_TIMEOUT * 10;
        while clock.boot() < end {
            let (primary, replica) = (offset(&self.primary).await?, offset(&self.replica).await?);
            if primary.is_some() && primary == replica {
                return Ok(());
            }
            clock.sleep(CONNECT_TIMEOUT / 100).await;
        }
        Err(Error::unavailable("the replica does not catch up"))
    }
}

/// How far a node has come in the stream of writes; nothing while it is not part of one.
async fn offset(node: &Redis) -> Result<Option<u64>> {
    let Reply::Text(info) = node.command(["INFO", "replication"]).await? else { return Ok(None) };
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let is_down = field("master_link_status") == Some("down") || field("connected_slaves") == Some("0");
    let is_primary = field("role") == Some("master");
    let offset = field(if is_primary { "master_repl_offset" } else { "slave_repl_offset" });
    Ok(offset.filter(|_| !is_down || !is_primary).and_then(|offset| offset.parse().ok()))
}

#[async_trait]
impl Fixture for Pair {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend_through(&self.endpoint()).await
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

#[async_trait]
impl Remote for Pair {
    fn endpoint(&self) -> String {
        self.front.address()
    }

    async fn backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        let driver = redis::Client::open(format!("redis://{address}"))
            .map_err(|error| Error::invalid("no address").caused_by(error))?;
        lock_redis::backend(&driver, RedisOptions::new().connect_timeout(CONNECT_TIMEOUT))
    }

    async fn hold_back_replicas(&self, _: &LockKey) -> Result<()> {
        let nodes = self.nodes().clone();
        nodes.synchronized().await?;
        nodes.link.block(Way::Both);
        Ok(())
    }

    async fn lose_leader(&self, _: &LockKey, how: Loss) -> Result<()> {
        let old = self.nodes().clone();
        match how {
            Loss::Killed => old.primary.kill().await?,
            Loss::Stopped => old.primary.stop()?,
        }
        if old.replica.command(["REPLICAOF", "NO", "ONE"]).await? != Reply::Text("OK".to_owned()) {
            return Err(Error::unavailable("the replica cannot be promoted"));
        }
        self.front.lead_to(old.replica.address())?;
        let next = Nodes::behind(old.replica.clone(), RedisSetup::new()).await?;
        *self.nodes() = next;
        Ok(())
    }
}

fn play(title: &str) {
    if let Err(failure) = Suite::new("redis with a replica", Pair::start).play(title) {
        panic!("{failure}");
    }
}

#[test]
fn a_primary_is_lost() {
    play("failover::a_leader_is_lost");
}

#[test]
fn a_replica_without_the_lock_takes_over() {
    play("failover::a_replica_without_the_lock_takes_over");
}

/// **A limit.** A key that was never granted begins at its server's clock, or at the mark if that is higher: the highest instant at
/// which any key began. The mark is written together with the key's record, so a replica that lacks the record lacks the mark of
/// this grant as well, and knows one from before at best. Whenever its clock has not yet come to the instant of the first grant,
/// the token of the second is *below*: here the mark of an earlier key plus one.
///
/// A resource that checks tokens then refuses the one who holds the lock now, as soon as the former holder has written; and where
/// the new one writes first, it admits the former after it. Whoever is granted the key next fares no better: tokens go up by one.
#[tokio::test]
async fn a_promoted_clock_that_is_behind_grants_below() {
    for has_a_mark in [false, true] {
        let pair = Pair::with(behind()).await.unwrap();
        let mark = if has_a_mark { given_back(&pair, "earlier").await.get() } else { 0 };
        let (first, second) = granted_by_both(&pair).await;
        assert!(second < first, "{second} after {first}");
        if has_a_mark {
            assert_eq!(second.get(), mark + 1);
        } else {
            let below = first.get() - second.get();
            assert!((HOUR - MINUTE..=HOUR).contains(&below), "{below} below, in microseconds");
        }
        let mut fence = Fence::new();
        fence.admit(Mode::Exclusive, first).unwrap();
        fence.admit(Mode::Exclusive, second).unwrap_err();
        let mut fence = Fence::new();
        fence.admit(Mode::Exclusive, second).unwrap();
        fence.admit(Mode::Exclusive, first).unwrap();
    }
}

/// What the mark is there for: no clock that is behind brings back what the replica has heard of.
#[tokio::test]
async fn a_promoted_clock_that_is_behind_goes_on_from_the_mark() {
    let pair = Pair::with(behind()).await.unwrap();
    let first = granted(&pair, "k").await;
    pair.hold_back_replicas(&key()).await.unwrap();
    pair.lose_leader(&key(), Loss::Killed).await.unwrap();
    assert_eq!(granted(&pair, "another").await.get(), first.get() + 1);
}

/// Where the clocks agree, what was lost lies behind them. Also for a key whose record the replica has from an earlier grant: for
/// the session that was granted it then, which foresees the record that is found, and for the one whose grants were lost.
#[tokio::test]
async fn a_grant_that_is_lost_of_a_key_that_is_known_is_made_again_under_a_higher_token() {
    let pair = Pair::start().await.unwrap();
    let (early, late) = (pair.backend().await.unwrap(), pair.backend().await.unwrap());
    let (early, late) = (session(&early, 60 * SECOND).await, session(&late, 60 * SECOND).await);
    let mut last = 0;
    let mut cycle = async |session: &Arc<dyn Session>, ticket| {
        let granted = token(&session.claim(&mutex("k", ticket)).await.unwrap());
        session.release(&mutex("k", ticket).reference(), Certainty::Settled).await.unwrap();
        assert!(granted > last, "{granted} after {last}");
        last = granted;
        granted
    };
    cycle(&early, 1).await;
    pair.hold_back_replicas(&key()).await.unwrap();
    let lost = cycle(&late, 1).await;
    assert_eq!(cycle(&late, 2).await, lost + 1, "nobody has looked at the clock");
    pair.lose_leader(&key(), Loss::Killed).await.unwrap();
    // Both sessions are on the replica, and the record is as the first grant has left it.
    cycle(&early, 2).await;
    cycle(&late, 3).await;
}

/// **A limit.** With its clock behind, a replica that has an earlier grant goes on from the mark at best, and the grant that was
/// lost may be above it.
#[tokio::test]
async fn a_promoted_clock_that_is_behind_grants_a_known_key_below() {
    let pair = Pair::with(behind()).await.unwrap();
    let before = given_back(&pair, "k").await;
    let (first, second) = granted_by_both(&pair).await;
    assert!(second < first, "{second} after {first}");
    assert!(second > before, "{second} after {before}");
    let mut fence = Fence::new();
    fence.admit(Mode::Exclusive, first).unwrap();
    fence.admit(Mode::Exclusive, second).unwrap_err();
}

/// A server whose wall clock is an hour behind.
fn behind() -> RedisSetup {
    let wall = WallClock::new().unwrap();
    wall.step(-i64::try_from(HOUR).unwrap()).unwrap();
    RedisSetup::new().wall_clock(&wall)
}

fn key() -> LockKey {
    LockKey::new("k").unwrap()
}

/// The token of a grant that the primary acknowledges and the replica does not hear of, and of that which the replica makes of the
/// same key once it has taken over.
async fn granted_by_both(pair: &Pair) -> (FencingToken, FencingToken) {
    pair.hold_back_replicas(&key()).await.unwrap();
    let first = granted(pair, "k").await;
    pair.lose_leader(&key(), Loss::Killed).await.unwrap();
    (first, granted(pair, "k").await)
}

async fn granted(pair: &Pair, key: &str) -> FencingToken {
    claimed(pair, key).await.1
}

async fn given_back(pair: &Pair, key: &str) -> FencingToken {
    let (session, token) = claimed(pair, key).await;
    session.release(&mutex(key, 1).reference(), Certainty::Settled).await.unwrap();
    token
}

/// By a session that nobody renews, and that lives for as long as a test.
async fn claimed(pair: &Pair, key: &str) -> (Arc<dyn Session>, FencingToken) {
    let session = session(&pair.backend().await.unwrap(), 60 * SECOND).await;
    let granted = token(&session.claim(&mutex(key, 1)).await.unwrap());
    (session, FencingToken::new(granted).unwrap())
}
