//! [`Broken`]: the memory store, with one thing wrong.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::{Fixture, SkewedClock, Suite, Verdict};
use lock_core::{
    Backend, BackendInfo, Certainty, Claim, ClaimRef, Claimed, Clock, Event, EventSink, FencingToken,
    LockKey, LockState, MemoryBackend, Mode, Opened, Page, Proof, Query, Released, Renewal, Result, Session,
    SessionId, SessionOptions, Standing, Term, Ticket, WaiterState, async_trait,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A release ends whatever is held.
    ReleasesForAnybody,
    /// A release says that it is done, and does nothing.
    ForgetsReleases,
    /// A release forgets nothing of the claim: a copy that comes later is granted.
    GrantsDelayedClaims,
    /// A renewal is acknowledged without being one.
    RenewsNothing,
    /// A renewal says of every claim what it said last.
    VerifiesNothing,
    /// Sessions live for half as long as the store says.
    OverstatesTheTtl,
    /// Validity counts from a reply that took a sixth of the TTL: so much longer than the store keeps it.
    CountsFromTheReply,
    /// Sessions live for ever.
    IgnoresExpiry,
    /// A session that is over begins anew with the next call.
    RevivesSessions,
    /// Every grant has the same token.
    ReusesTokens,
    /// Tokens count from 1, and from 1 again once the key's data is lost.
    CountsTokensFromOne,
    /// Tokens are the clock.
    TokensFollowTheClock,
    /// Events do not arrive.
    LosesWakeUps,
    /// Nobody is told that somebody waits for them.
    KeepsOrphans,
    /// Every event wakes everybody.
    WakesTheHerd,
    /// There is no queue: whoever asks at the right moment is served.
    ServesWhoeverComes,
    /// A busy lock is granted to whoever asks.
    GrantsTwice,
    /// Each copy of a claim is another claim.
    TakesCopiesForClaims,
    /// Every claim weighs 1.
    IgnoresWeights,
    /// `hold_at_least` is nothing.
    IgnoresAtLeast,
    /// A hold for a fixed time ends with its session.
    EndsFixedTermsEarly,
    /// Keys that differ in their case alone are one.
    FoldsKeys,
    /// Keys are listed whatever their prefix.
    ListsEverything,
    /// Each hundredth release leaves a descriptor open.
    LeaksDescriptors,
    /// What a waiter leaves is never taken out of the queue.
    KeepsCancelledWaiters,
}

/// Plays a scenario against the memory store with this fault.
pub(crate) fn play(fault: Fault, scenario: &str) -> Verdict {
    let start = move || async move { Ok(Scenery::new(fault)) };
    Suite::new("broken", start).play(scenario)
}

struct Scenery {
    clock: SkewedClock,
    memory: Arc<MemoryBackend>,
    broken: Arc<Broken>,
}

impl Scenery {
    fn new(fault: Fault) -> Scenery {
        let clock = SkewedClock::new();
        let memory = MemoryBackend::with_clock(Arc::new(clock.clone()));
        let broken = Arc::new(Broken::new(memory.clone(), Arc::new(clock.clone()), fault));
        Scenery { clock, memory, broken }
    }
}

#[async_trait]
impl Fixture for Scenery {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        Ok(self.broken.clone())
    }

    fn clock(&self) -> Option<SkewedClock> {
        Some(self.clock.clone())
    }

    async fn forget(&self, key: &LockKey) -> Result<()> {
        self.memory.forget(key);
        self.broken.0.tokens.lock().unwrap().remove(key);
        Ok(())
    }
}

/// A store with a fault.
#[derive(Debug)]
pub(crate) struct Broken(Arc<Shared>);

impl Broken {
    pub(crate) fn new(inner: Arc<MemoryBackend>, clock: Arc<dyn Clock>, fault: Fault) -> Broken {
        Broken(Arc::new(Shared {
            inner,
            clock,
            fault,
            tokens: Mutex::default(),
            sinks: Mutex::default(),
            waiting: Mutex::default(),
            tickets: AtomicU64::new(1 << 40),
            releases: AtomicUsize::new(0),
        }))
    }
}

struct Shared {
    inner: Arc<MemoryBackend>,
    clock: Arc<dyn Clock>,
    fault: Fault,
    tokens: Mutex<HashMap<LockKey, HashMap<FencingToken, u64>>>,
    sinks: Mutex<Vec<EventSink>>,
    /// Who waits in a store that has no queue, but shows one.
    waiting: Mutex<Vec<(LockKey, SessionId, Ticket)>>,
    tickets: AtomicU64,
    releases: AtomicUsize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broken({:?})", self.fault)
    }
}

impl Shared {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn key(&self, key: &LockKey) -> LockKey {
        if self.is(Fault::FoldsKeys) {
            let folded = key.as_str().to_lowercase();
            return LockKey::new(folded).map_or(key.clone(), |folded| folded.under(key.prefix()));
        }
        key.clone()
    }

    /// The token that this store shows for one of the memory store's.
    fn token(&self, key: &LockKey, token: FencingToken) -> FencingToken {
        let shown = match self.fault {
            Fault::ReusesTokens => 7,
            Fault::CountsTokensFromOne => {
                let mut tokens = self.tokens.lock().unwrap();
                let known = tokens.entry(key.clone()).or_default();
                let next = known.len() as u64 + 1;
                *known.entry(token).or_insert(next)
            }
            Fault::TokensFollowTheClock => {
                let mut tokens = self.tokens.lock().unwrap();
                *tokens.entry(key.clone()).or_default().entry(token).or_insert(self.clock.wall_micros())
            }
            _ => return token,
        };
        FencingToken::new(shown).unwrap()
    }

    fn hears(self: &Arc<Shared>, sink: EventSink) -> EventSink {
        let shared = self.clone();
        shared.sinks.lock().unwrap().push(sink.clone());
        EventSink::new(move |event| match (shared.fault, &event) {
            (Fault::LosesWakeUps, _) | (Fault::KeepsOrphans, Event::Wanted(_)) => {}
            (Fault::WakesTheHerd, Event::Granted { .. }) => {
                sink.send(event);
                for other in shared.sinks.lock().unwrap().iter() {
                    other.send(Event::Gap);
                }
            }
            (
                Fault::ReusesTokens | Fault::CountsTokensFromOne | Fault::TokensFollowTheClock,
                Event::Granted { ticket, .. },
            ) => {
                // Its own claim says under which token.
                sink.send(Event::Recheck(*ticket));
            }
            _ => sink.send(event),
        })
    }
}

#[async_trait]
impl Backend for Broken {
    fn info(&self) -> BackendInfo {
        self.0.inner.info()
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        let mut inner = options.clone();
        match self.0.fault {
            Fault::OverstatesTheTtl => inner.ttl /= 2,
            // Seen from outside it is the same whether an engine counts from too late or a store from too early.
            Fault::CountsFromTheReply => inner.ttl -= inner.ttl / 6,
            Fault::IgnoresExpiry => inner.ttl = Duration::from_secs(3600),
            _ => {}
        }
        let opened = self.0.inner.open(&inner, self.0.hears(sink.clone())).await?;
        let session = BrokenSession {
            shared: self.0.clone(),
            options: options.clone(),
            sink,
            inner: Mutex::new(opened.session),
            claims: Mutex::default(),
        };
        Ok(Opened::new(Arc::new(session), options.ttl))
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        let mut state = self.0.inner.inspect(&self.0.key(key)).await?;
        for holder in &mut state.holders {
            holder.token = self.0.token(key, holder.token);
        }
        for (_, session, ticket) in self.0.waiting.lock().unwrap().iter().filter(|(of, ..)| of == key) {
            state.queue.push(WaiterState::new(*session, *ticket, Mode::Exclusive));
        }
        Ok(state)
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        let mut page = self.0.inner.list(query).await?;
        if self.0.is(Fault::ListsEverything) {
            for prefix in ["one", "one-and"] {
                let seed = query
                    .prefix
                    .as_ref()
                    .and_then(|it| it.as_str().rsplit_once('-').map(|(_, seed)| seed.to_owned()));
                let other = seed.and_then(|seed| lock_core::Prefix::new(format!("{prefix}-{seed}")).ok());
                if other != query.prefix {
                    page.keys.extend(self.0.inner.list(&Query::new(other, "", 100)).await?.keys);
                }
            }
        }
        Ok(page)
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        self.0.inner.force_release(&self.0.key(key), only).await
    }
}

struct BrokenSession {
    shared: Arc<Shared>,
    options: SessionOptions,
    sink: EventSink,
    inner: Mutex<Arc<dyn Session>>,
    /// What was said of each claim, or the last copy that was made of it.
    claims: Mutex<HashMap<Ticket, (Option<FencingToken>, Ticket)>>,
}

impl fmt::Debug for BrokenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokenSession({:?})", self.options.id)
    }
}

impl BrokenSession {
    fn inner(&self) -> Arc<dyn Session> {
        self.inner.lock().unwrap().clone()
    }

    async fn revive(&self) -> Result<()> {
        if self.shared.is(Fault::RevivesSessions) && self.inner().renew(&[]).await.is_err() {
            let mut options = self.options.clone();
            options.id = SessionId::random()?;
            let opened = self.shared.inner.open(&options, self.shared.hears(self.sink.clone())).await?;
            *self.inner.lock().unwrap() = opened.session;
        }
        Ok(())
    }

    /// The claim as it reaches the memory store.
    fn twisted(&self, claim: &Claim) -> Claim {
        let mut twisted = claim.clone();
        twisted.key = self.shared.key(&claim.key);
        match self.shared.fault {
            Fault::ServesWhoeverComes => twisted.wait = false,
            Fault::IgnoresAtLeast => twisted.term = Term::default(),
            Fault::EndsFixedTermsEarly if matches!(twisted.term, Term::Fixed(_)) => {
                twisted.term = Term::default();
            }
            Fault::IgnoresWeights if claim.permit.capacity() > 1 => {
                twisted.permit = lock_core::Permit::new(1, claim.permit.capacity()).unwrap();
            }
            Fault::TakesCopiesForClaims => {
                twisted.ticket = Ticket(self.shared.tickets.fetch_add(1, Ordering::SeqCst));
            }
            _ => {}
        }
        twisted
    }

    fn note(&self, ticket: Ticket, token: Option<FencingToken>, copy: Ticket) {
        self.claims.lock().unwrap().insert(ticket, (token, copy));
    }

    fn waits(&self, claim: &ClaimRef, waits: bool) {
        let me = (claim.key.clone(), self.options.id, claim.ticket);
        let mut waiting = self.shared.waiting.lock().unwrap();
        match waiting.iter().position(|it| *it == me) {
            Some(index) if !waits => drop(waiting.remove(index)),
            None if waits => waiting.push(me),
            _ => {}
        }
    }

    fn reference(&self, claim: &ClaimRef) -> ClaimRef {
        let known = self.claims.lock().unwrap().get(&claim.ticket).map_or(claim.ticket, |known| known.1);
        ClaimRef::new(self.shared.key(&claim.key), known)
    }
}

#[async_trait]
impl Session for BrokenSession {
    fn id(&self) -> SessionId {
        self.options.id
    }

    async fn renew(&self, known: &[ClaimRef]) -> Result<Renewal> {
        self.revive().await?;
        let said = |claim: &ClaimRef| match self.claims.lock().unwrap().get(&claim.ticket) {
            Some((Some(token), _)) => Standing::Holds { token: *token, proof: Proof::NONE },
            _ => Standing::Waits { recheck_in: None },
        };
        match self.shared.fault {
            Fault::RenewsNothing => return Ok(Renewal::new(known.iter().map(said).collect())),
            Fault::VerifiesNothing => {
                self.inner().renew(&[]).await?;
                return Ok(Renewal::new(known.iter().map(said).collect()));
            }
            _ => {}
        }
        let asked: Vec<_> = known.iter().map(|claim| self.reference(claim)).collect();
        let mut renewal = self.inner().renew(&asked).await?;
        for (claim, standing) in known.iter().zip(&mut renewal.standings) {
            match standing {
                Standing::Holds { token, .. } => *token = self.shared.token(&claim.key, *token),
                Standing::Gone if self.shared.is(Fault::ServesWhoeverComes) => {
                    *standing = Standing::Waits { recheck_in: Some(Duration::from_millis(5)) };
                }
                _ => {}
            }
        }
        Ok(renewal)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed> {
        self.revive().await?;
        let twisted = self.twisted(claim);
        let mut claimed = self.inner().claim(&twisted).await?;
        if let (Fault::GrantsTwice, Claimed::Busy(_) | Claimed::Queued { .. }) = (self.shared.fault, &claimed)
        {
            self.shared.inner.force_release(&twisted.key, None).await?;
            claimed = self.inner().claim(&twisted).await?;
        }
        self.note(claim.ticket, None, twisted.ticket);
        self.waits(&claim.reference(), claim.wait && matches!(claimed, Claimed::Busy(_)));
        Ok(match claimed {
            Claimed::Granted { token, proof } => {
                let token = self.shared.token(&claim.key, token);
                self.note(claim.ticket, Some(token), twisted.ticket);
                Claimed::Granted { token, proof }
            }
            Claimed::Busy(busy) if claim.wait => Claimed::Queued {
                recheck_in: Some(Duration::from_millis(5 + u64::from(fastrand::u8(..20)))),
                busy,
            },
            other => other,
        })
    }

    async fn release(&self, claim: &ClaimRef, certainty: Certainty) -> Result<Released> {
        let inner = self.reference(claim);
        self.waits(claim, false);
        match self.shared.fault {
            Fault::ReleasesForAnybody => {
                self.shared.inner.force_release(&inner.key, None).await?;
                return Ok(Released::Done);
            }
            Fault::ForgetsReleases => return Ok(Released::Done),
            Fault::KeepsCancelledWaiters => {
                let holders = self.shared.inner.inspect(&inner.key).await?.holders;
                if !holders
                    .iter()
                    .any(|holder| (holder.session, holder.ticket) == (self.options.id, inner.ticket))
                {
                    return Ok(Released::Done);
                }
            }
            Fault::LeaksDescriptors if self.shared.releases.fetch_add(1, Ordering::SeqCst) % 100 == 0 => {
                std::mem::forget(std::fs::File::open("/dev/null"));
            }
            _ => {}
        }
        let certainty =
            if self.shared.is(Fault::GrantsDelayedClaims) { Certainty::Settled } else { certainty };
        self.inner().release(&inner, certainty).await
    }

    async fn close(&self) -> Result<()> {
        self.inner().close().await
    }
}
