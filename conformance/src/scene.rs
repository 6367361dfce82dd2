//! [`Scene`]: what a scenario is given to play with.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{
    Backend, BootTime, Capabilities, Certainty, Claim, ClaimRef, Claimed, Clock, Domain, EventSink,
    FencingToken, Guard, HoldState, HolderInfo, HolderState, LockClient, LockClientBuilder, LockKey,
    LockState, Mode, Permit, Released, Session, SessionId, SessionOptions, SystemClock, Ticket,
};
use tokio::task::{JoinError, JoinHandle};

use crate::child::Child;
use crate::fixture::Fixture;
use crate::promises::Promise;
use crate::proxy::Proxy;
use crate::remote::Remote;
use crate::verdict::{Failure, Verdict, expect};
use lock_core::testing::Wire;

/// For what is to happen "at once": no lease and no poll is as short.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// What a machine that is busy with other things may add to any instant.
pub(crate) const NOISE: Duration = Duration::from_millis(250);

/// A TTL that no scenario lives to see the end of.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A store of one's own, and whatever can be done to it.
pub(crate) struct Scene {
    /// It knows which domain a key is in.
    map: Arc<dyn Backend>,
    fixture: Box<dyn Fixture>,
    ttl: Duration,
    promise: Promise,
    promise_was_read: Arc<AtomicBool>,
    seed: u64,
    name: String,
}

impl Scene {
    pub(crate) async fn new(
        fixture: Box<dyn Fixture>,
        ttl: Duration,
        promise: Promise,
        name: String,
    ) -> Verdict<Scene> {
        let seed = match std::env::var("CONFORMANCE_SEED") {
            Ok(text) => text.parse().map_err(|_| Failure::new("a number in CONFORMANCE_SEED", text))?,
            Err(_) => fastrand::u64(..),
        };
        let map = fixture.backend().await?;
        Ok(Scene { map, fixture, ttl, promise, promise_was_read: Arc::default(), seed, name })
    }

    pub(crate) fn fixture(&self) -> &dyn Fixture {
        &*self.fixture
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn promise_was_read(&self) -> Arc<AtomicBool> {
        self.promise_was_read.clone()
    }

    pub(crate) fn is_promised_less(&self) -> bool {
        matches!(self.promise, Promise::Weaker(_))
    }

    /// Whether the store promises less than the scenario's whole: what it does instead is then asserted.
    pub(crate) fn is_weaker(&self) -> bool {
        self.promise_was_read.store(true, Ordering::SeqCst);
        self.is_promised_less()
    }

    /// The TTL of clients.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// For how long after its last acknowledged sending a dead holder's key may stay taken.
    pub(crate) async fn longest(&self) -> Verdict<Duration> {
        Ok(self.ttl + self.capabilities().await?.expiry_slack)
    }

    pub(crate) async fn capabilities(&self) -> Verdict<Capabilities> {
        Ok(self.backend().await?.info().capabilities)
    }

    /// The scenario's key.
    pub(crate) fn key(&self) -> LockKey {
        self.named("k")
    }

    /// A key of this scenario alone, also where scenarios share a server. In the store's first domain: scenarios look at the one
    /// session that their clients have opened, and open others beside it.
    pub(crate) fn named(&self, name: &str) -> LockKey {
        let in_first = |key: &LockKey| self.map.domain(key) == Domain::default();
        let names = (0..100_000).map(|number| self.anywhere(&format!("{name}.{number}")));
        std::iter::once(self.anywhere(name))
            .chain(names)
            .find(in_first)
            .unwrap_or_else(|| self.anywhere(name))
    }

    /// The same, in whichever domain it is.
    pub(crate) fn anywhere(&self, name: &str) -> LockKey {
        let text = format!("{}/{:08x}/{name}", self.name, self.seed & 0xFFFF_FFFF);
        LockKey::new(text).unwrap_or_else(|error| unreachable!("{error}"))
    }

    pub(crate) async fn backend(&self) -> Verdict<Arc<dyn Backend>> {
        Ok(self.fixture.backend().await?)
    }

    /// A client of its own.
    pub(crate) async fn client(&self) -> Verdict<LockClient> {
        self.client_with(|builder| builder).await
    }

    pub(crate) async fn client_with(
        &self,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> Verdict<LockClient> {
        self.client_of(self.backend().await?, configure).await
    }

    /// A client behind a wire that can be made to fail.
    pub(crate) async fn wired(&self) -> Verdict<(LockClient, Wire)> {
        self.wired_with(|builder| builder).await
    }

    pub(crate) async fn wired_with(
        &self,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> Verdict<(LockClient, Wire)> {
        let wire = Wire::new(Arc::new(SystemClock::new()));
        let client = self.client_of(wire.to(self.backend().await?), configure).await?;
        Ok((client, wire))
    }

    /// The server that the store is.
    pub(crate) fn remote(&self) -> Verdict<&dyn Remote> {
        self.fixture.remote().ok_or_else(|| {
            Failure::new(
                "a store that is a server",
                "the fixture has no hook `remote`: give it one, or say in the store's promises that it has no server",
            )
        })
    }

    /// A network of one's own to the server.
    pub(crate) async fn proxy(&self) -> Verdict<Proxy> {
        Ok(Proxy::to(self.remote()?.endpoint()).await?)
    }

    /// A client behind a network that can be made to fail.
    pub(crate) async fn proxied(&self) -> Verdict<(LockClient, Proxy)> {
        self.proxied_with(|builder| builder).await
    }

    pub(crate) async fn proxied_with(
        &self,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> Verdict<(LockClient, Proxy)> {
        let proxy = self.proxy().await?;
        Ok((self.client_through(&proxy, configure).await?, proxy))
    }

    /// One more client behind a network.
    pub(crate) async fn client_through(
        &self,
        proxy: &Proxy,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> Verdict<LockClient> {
        self.client_of(self.remote()?.backend_through(&proxy.address()).await?, configure).await
    }

    pub(crate) async fn client_of(
        &self,
        backend: Arc<dyn Backend>,
        configure: impl FnOnce(LockClientBuilder) -> LockClientBuilder,
    ) -> Verdict<LockClient> {
        let client = configure(LockClient::builder(backend).ttl(self.ttl)).build()?;
        client.open().await?;
        Ok(client)
    }

    /// A session without an engine: nobody renews it, and nobody releases for it.
    pub(crate) async fn session(&self, ttl: Duration) -> Verdict<Bare> {
        let options =
            SessionOptions::new(SessionId::random()?, Domain(0), ttl, HolderInfo::new(std::process::id()));
        let backend = self.backend().await?;
        let opened = backend.open(&options, EventSink::new(|_| {})).await?;
        Ok(Bare { session: opened.session, _backend: backend })
    }

    /// A client in a process of its own.
    pub(crate) async fn child(&self) -> Verdict<Child> {
        let address = self.fixture.address().ok_or_else(|| {
            Failure::new(
                "a store that another process can reach",
                "the fixture has no hook `address`: give it one and the suite `children`, or say in the store's promises \
                 that it lives in one process",
            )
        })?;
        Child::start(&address, self.ttl)
    }

    /// How a key stands, by a look from outside.
    pub(crate) async fn state(&self, key: &LockKey) -> Verdict<LockState> {
        Ok(self.backend().await?.inspect(key).await?)
    }

    /// The one holder of a key, by a look from outside.
    pub(crate) async fn holder(&self, key: &LockKey) -> Verdict<HolderState> {
        let mut holders = self.state(key).await?.holders;
        expect(holders.len() == 1, format_args!("one holder of {key}"), format_args!("{holders:?}"))?;
        Ok(holders.remove(0))
    }

    /// Makes this the highest token that was ever granted for an idle key.
    pub(crate) async fn set_fence(&self, key: &LockKey, token: u64) -> Verdict {
        let clock = match self.fixture.set_fence(key, token).await {
            Ok(()) => return Ok(()),
            Err(error) => self.fixture.clock().ok_or(error)?,
        };
        clock.stop_wall(token);
        let bare = self.session(LONG).await?;
        let granted = bare.take(key, 1).await?;
        bare.release(key, 1, Certainty::Settled).await?;
        bare.session.close().await?;
        expect(granted.get() == token, format_args!("a token from the clock: {token}"), granted)
    }

    /// Waits until so many wait for a key.
    pub(crate) async fn queue(&self, key: &LockKey, length: usize) -> Verdict {
        let backend = self.backend().await?;
        self.until(SOON * 10, format_args!("{length} waiters for {key}"), async || {
            Ok(backend.inspect(key).await?.queue.len() == length)
        })
        .await
    }

    pub(crate) fn now(&self) -> BootTime {
        SystemClock::new().boot()
    }

    pub(crate) async fn pause(&self, time: Duration) {
        SystemClock::new().sleep(time).await;
    }

    /// What comes within a time.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        what: impl Display,
        coming: impl Future<Output = T>,
    ) -> Verdict<T> {
        tokio::select! {
            biased;
            it = coming => Ok(it),
            () = self.pause(limit) => Err(Failure::new(format_args!("{what} within {limit:?}"), "it did not come")),
        }
    }

    /// The mutex of this key, granted to this client within a time.
    pub(crate) async fn granted(
        &self,
        limit: Duration,
        what: impl Display,
        client: &LockClient,
        key: LockKey,
    ) -> Verdict<Guard> {
        Ok(self.within(limit, what, client.mutex(key)?.acquire()).await??)
    }

    /// The mutex of a key that is free, for a client whose session may have ended: the next call opens another.
    pub(crate) async fn free_again(&self, client: &LockClient, key: LockKey) -> Verdict<Guard> {
        let lock = client.mutex(key)?;
        // A call over a server that hangs may take all of its own time.
        let limit = LockClientBuilder::DEFAULT_CALL_TIMEOUT + SOON * 2;
        let end = self.now() + limit;
        loop {
            match self.within(limit, "an answer", lock.acquire()).await? {
                Err(error) if error.is_retryable() && self.now() < end => {}
                granted => return Ok(granted?),
            }
        }
    }

    /// An acquire that goes on by itself.
    pub(crate) fn acquiring(
        &self,
        client: &LockClient,
        key: LockKey,
    ) -> Verdict<JoinHandle<lock_core::Result<Guard>>> {
        let lock = client.mutex(key)?;
        Ok(tokio::spawn(async move { lock.acquire().await }))
    }

    /// A hold is held, and renewed from now on, under the token that it has; the store agrees.
    pub(crate) async fn is_renewed(&self, guard: &Guard) -> Verdict {
        let mut state = guard.state();
        // The first may have been acknowledged before whatever has just happened.
        for _ in 0..2 {
            state = self.within(self.ttl, "a renewal", guard.extended(deadline(guard)?)).await?;
        }
        expect(matches!(state, HoldState::Held { .. }), "a hold that is kept", format_args!("{state:?}"))?;
        let (kept, known) = (guard.token(), self.holder(guard.key()).await?.token);
        expect(known == kept, format_args!("the token {kept} in the store"), known)
    }

    /// What a task comes to within a time.
    pub(crate) async fn joined<T>(
        &self,
        limit: Duration,
        what: impl Display,
        task: JoinHandle<lock_core::Result<T>>,
    ) -> Verdict<T> {
        Ok(without_panic(self.within(limit, what, task).await?)??)
    }

    /// Waits until something is so.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        what: impl Display,
        mut so: impl AsyncFnMut() -> Verdict<bool>,
    ) -> Verdict {
        let end = self.now() + limit;
        while !so().await? {
            expect(self.now() < end, format_args!("{what} within {limit:?}"), "it did not come to that")?;
            self.pause(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// A session without an engine.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) session: Arc<dyn Session>,
    /// A store may end its sessions with the handle that opened them.
    _backend: Arc<dyn Backend>,
}

impl Bare {
    /// One attempt at a mutex.
    pub(crate) async fn claim(&self, key: &LockKey, ticket: u64, wait: bool) -> lock_core::Result<Claimed> {
        self.session.claim(&mutex(key, ticket).waiting(wait)).await
    }

    /// Takes a mutex that has to be free.
    pub(crate) async fn take(&self, key: &LockKey, ticket: u64) -> Verdict<FencingToken> {
        match self.claim(key, ticket, false).await? {
            Claimed::Granted { token, .. } => Ok(token),
            other => Err(Failure::new(format_args!("{key} to be free"), format_args!("{other:?}"))),
        }
    }

    pub(crate) async fn release(
        &self,
        key: &LockKey,
        ticket: u64,
        certainty: Certainty,
    ) -> lock_core::Result<Released> {
        self.session.release(&ClaimRef::new(key.clone(), Ticket(ticket)), certainty).await
    }
}

/// What a task came to, unless it panicked.
pub(crate) fn without_panic<T>(joined: Result<T, JoinError>) -> Verdict<T> {
    joined.map_err(|panic| Failure::new("no panic", panic))
}

/// Until when a hold is one, if nothing more is heard.
pub(crate) fn deadline(guard: &Guard) -> Verdict<BootTime> {
    match guard.state() {
        HoldState::Held { until } | HoldState::AtRisk { until } => Ok(until),
        ended => Err(Failure::new("a hold", format_args!("{ended:?}"))),
    }
}

pub(crate) fn mutex(key: &LockKey, ticket: u64) -> Claim {
    Claim::new(key.clone(), Ticket(ticket), Mode::Exclusive, Permit::MUTEX)
}
