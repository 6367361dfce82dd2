//! [`Cluster`]: which node has which domain, as the nodes themselves say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lock_core::{BootTime, Clock, Domain, Effect, Error, ErrorKind, LockKey, Result, SystemClock};
use redis::{Cmd, ConnectionInfo, Value};

use crate::address::Address;
use crate::dial::{Purpose, Target};
use crate::failure::{Condition, Redirection, condition, redirection, unexpected};
use crate::link::Link;
use crate::options::RedisOptions;
use crate::reply;
use crate::store::{Listening, Node, Question};

/// The keys are dealt out to so many domains. It never changes: it is part of each key's name.
const DOMAINS: u32 = 256;

/// A node is asked for nothing more, as long as others can be, on which a call was given up that had waited for so long.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often one call is sent on to another node.
const REDIRECTIONS: usize = 5;

/// A Redis cluster.
///
/// No map of the slots is kept. Whoever is asked for what another node has says which one; that is remembered for each domain,
/// so that a client is sent on 256 times at most, and again where slots move.
///
/// Invariant: a script runs only on the node that owns its slot, never on one to which the slot is being moved: there, what has
/// not arrived yet would look as if it did not exist. (What a script does while its slot is moved away stands in `record.lua`.)
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Those that the URL names.
    seeds: Vec<Address>,
    /// How nodes are reached, but for their addresses.
    like: ConnectionInfo,
    options: RedisOptions,
    clock: SystemClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<Address, Arc<Member>>,
    /// Each of them is among the members.
    owners: HashMap<Domain, Arc<Member>>,
    /// The primaries, as they are called in the cluster.
    named: Vec<Address>,
    health: HashMap<Address, Arc<Health>>,
}

/// A node, and how it is called in the cluster.
#[derive(Debug)]
struct Member {
    address: Address,
    node: Node,
    health: Arc<Health>,
}

/// What is known of a node, and since when: in nanoseconds of the boot clock. It is remembered also of one that is not connected
/// to.
#[derive(Debug)]
struct Health(Mutex<(Condition, u64)>);

impl Cluster {
    pub(crate) fn new(seeds: Vec<Address>, like: ConnectionInfo, options: RedisOptions) -> Cluster {
        Cluster { seeds, like, options, clock: SystemClock::new(), state: Mutex::default() }
    }

    pub(crate) fn domain(key: &LockKey) -> Domain {
        let number = crc32fast::hash(key.encoded().as_bytes()) % DOMAINS;
        Domain(u16::try_from(number).unwrap_or_default())
    }

    pub(crate) fn endpoint(&self) -> String {
        let hosts: Vec<_> = self.seeds.iter().map(Address::to_string).collect();
        let scheme = if Address::is_with_tls(&self.like) { "rediss+cluster" } else { "redis+cluster" };
        format!("{scheme}://{}", hosts.join(","))
    }

    /// Asks the node that has this domain.
    pub(crate) async fn ask(
        &self,
        domain: Domain,
        listener: Option<&Listening>,
        question: Question<'_>,
    ) -> Result<Value> {
        let mut refusal = None;
        for _ in 0..=REDIRECTIONS {
            let (member, is_known) = self.owner(domain).await?;
            let Member { address, node, .. } = &*member;
            let error = match self.watched(&member, node.ask(listener, question)).await {
                Ok(answer) => return self.believed(domain, member, is_known).map(|()| answer),
                Err(error) => error,
            };
            match redirection(&error) {
                Some(Redirection::Moved(host, port)) => {
                    let next = Address::new(host.unwrap_or(&address.host), port);
                    self.is_owned_by(domain, self.member(&next));
                }
                Some(Redirection::Moving(_)) => return Err(moving(error).at(node.commands.endpoint())),
                // It has taken nothing, as one that is cut off from the others: somebody else may know better.
                None if error.took_effect() == Effect::NotApplied
                    && *error.kind() == ErrorKind::Unavailable =>
                {
                    refusal = Some(error.at(node.commands.endpoint()));
                }
                None => return Err(error.at(node.commands.endpoint())),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            Error::unavailable("the nodes do not agree which of them has the slot of this key")
                .effect(Effect::NotApplied)
                .at(self.endpoint())
        }))
    }

    /// Asks for one key, which may have left its node for the next owner of the slot already. Not for scripts.
    pub(crate) async fn ask_also_on_the_move(&self, domain: Domain, command: &Cmd) -> Result<Value> {
        let error = match self.ask(domain, None, Question::Command(command)).await {
            Err(error) => error,
            answer => return answer,
        };
        let Some(Redirection::Moving(Some((host, port)))) = redirection(&error) else { return Err(error) };
        let (asked, _) = self.owner(domain).await?;
        let member = self.member(&Address::new(host.unwrap_or(&asked.address.host), port));
        let commands = &member.node.commands;
        self.watched(&member, commands.call_asking(command))
            .await
            .map_err(|error| error.at(commands.endpoint()))
    }

    /// All nodes that have slots, as the first of them says that answers.
    pub(crate) async fn primaries(&self) -> Result<Vec<Node>> {
        let named = self.named().await?;
        Ok(named.iter().map(|address| self.member(address).node.clone()).collect())
    }

    async fn named(&self) -> Result<Vec<Address>> {
        let candidates = self.candidates();
        let mut refusal: Option<Error> = None;
        // At first, whoever of them is not there is not waited for; later the healthiest is asked first.
        let at_once = if self.state().named.is_empty() { candidates.len() } else { 1 };
        for some in candidates.chunks(at_once.max(1)) {
            let mut asked: FuturesUnordered<_> =
                some.iter().map(|address| self.primaries_as_told_by(address)).collect();
            while let Some(told) = asked.next().await {
                match told {
                    Ok(named) => {
                        self.state().named.clone_from(&named);
                        self.forget_strangers();
                        return Ok(named);
                    }
                    // One that answers and refuses says more than those that are not there.
                    Err(error) if *error.kind() != ErrorKind::Unavailable => return Err(error),
                    Err(error) => drop(refusal.get_or_insert(error)),
                }
            }
        }
        Err(refusal.unwrap_or_else(nobody_to_ask))
    }

    async fn primaries_as_told_by(&self, address: &Address) -> Result<Vec<Address>> {
        let member = self.member(address);
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        let told = async {
            let answer = self.watched(&member, member.node.commands.call(&command)).await?;
            let named = slots(&answer, &address.host).ok_or_else(|| unexpected("CLUSTER SLOTS", &answer))?;
            if named.is_empty() {
                // As one that has left the cluster.
                self.doubt(&member, Condition::Apart);
                return Err(Error::unavailable("it knows of no node that has a slot"));
            }
            Ok(named)
        };
        told.await.map_err(|error| error.at(member.node.commands.endpoint()))
    }

    /// Who has this domain, and whether that is known; otherwise somebody who knows.
    async fn owner(&self, domain: Domain) -> Result<(Arc<Member>, bool)> {
        let (known, nobody) = {
            let state = self.state();
            (state.owners.get(&domain).cloned(), state.named.is_empty())
        };
        if nobody {
            self.named().await?;
        }
        match known {
            Some(owner) => Ok((owner, true)),
            None => {
                let first = self.candidates().first().map(|address| self.member(address));
                first.map(|member| (member, false)).ok_or_else(nobody_to_ask)
            }
        }
    }

    /// An answer that comes when another node is known to have the domain may be that of an old owner, which knows nothing of what
    /// was granted since.
    fn believed(&self, domain: Domain, member: Arc<Member>, is_known: bool) -> Result<()> {
        let owner = self.state().owners.get(&domain).cloned();
        match owner {
            Some(owner) if owner.address != member.address => {
                Err(Error::unavailable("the answer of a node that was replaced by another meanwhile")
                    .effect(Effect::Unknown)
                    .at(member.node.commands.endpoint()))
            }
            Some(_) => Ok(()),
            None => {
                // Unless it has been doubted while it was asked.
                if !is_known {
                    self.is_owned_by(domain, member);
                }
                Ok(())
            }
        }
    }

    fn is_owned_by(&self, domain: Domain, owner: Arc<Member>) {
        let mut state = self.state();
        let State { members, owners, named, .. } = &mut *state;
        let address = &owner.address;
        if owners.get(&domain).is_some_and(|known| known.address == *address) {
            return;
        }
        if !named.contains(address) && !self.seeds.contains(address) {
            named.push(address.clone());
        }
        // It may have been forgotten while it was asked.
        let owner = members.entry(address.clone()).or_insert(owner).clone();
        let before = owners.insert(domain, owner);
        // Perhaps a replica by now: the connections to it end with the last call.
        if let Some(before) = before.filter(|before| !owners.values().any(|owner| Arc::ptr_eq(owner, before)))
        {
            members.remove(&before.address);
        }
    }

    /// Whoever can be asked: first those of whom nothing bad is known, whoever answered last before the others; then those that take
    /// no part, which costs no time to hear; then those that did not answer: both in the order in which they were asked.
    fn candidates(&self) -> Vec<Address> {
        let state = self.state();
        let mut candidates: Vec<_> = state.named.iter().chain(&self.seeds).cloned().collect();
        candidates.sort_by_cached_key(|address| {
            let (condition, since) = state.health.get(address).map_or((Condition::Well, 0), |it| it.known());
            (condition, if condition == Condition::Well { u64::MAX - since } else { since })
        });
        candidates.dedup();
        candidates
    }

    fn member(&self, address: &Address) -> Arc<Member> {
        let mut state = self.state();
        if let Some(member) = state.members.get(address) {
            return member.clone();
        }
        let reached = if self.seeds.contains(address) {
            address.clone()
        } else {
            address.reached_from_here(&self.options)
        };
        let link = |purpose| {
            let target = Target::Server(Box::new(reached.info(&self.like)));
            Arc::new(Link::new(target, purpose, self.options.clone()))
        };
        let node = Node { commands: link(Purpose::Commands), news: link(Purpose::News) };
        let health = state.health.entry(address.clone()).or_default().clone();
        let member = Arc::new(Member { address: address.clone(), node, health });
        state.members.insert(address.clone(), member.clone());
        member
    }

    /// Connections to nodes that are none any more, or that were asked under another name, end when nobody uses them.
    fn forget_strangers(&self) {
        let mut state = self.state();
        let State { members, owners, named, health } = &mut *state;
        health.retain(|address, _| named.contains(address) || self.seeds.contains(address));
        members.retain(|address, _| {
            named.contains(address) || owners.values().any(|owner| owner.address == *address)
        });
    }

    /// Awaits an answer. Where none comes, somebody else may have taken over from this node.
    async fn watched<T>(&self, member: &Arc<Member>, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut waiting = Waiting { cluster: self, member: Some(member), since: self.clock.boot() };
        let answer = call.await;
        waiting.member = None;
        match answer.as_ref().err().map_or(Condition::Well, condition) {
            Condition::Well => member.health.becomes(Condition::Well, self.clock.boot()),
            doubtful => self.doubt(member, doubtful),
        }
        answer
    }

    /// Another node is asked next for what this one had.
    fn doubt(&self, member: &Arc<Member>, condition: Condition) {
        member.health.becomes(condition, self.clock.boot());
        self.state().owners.retain(|_, owner| !Arc::ptr_eq(owner, member));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn becomes(&self, condition: Condition, now: BootTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (condition, now.as_nanos());
    }

    fn known(&self) -> (Condition, u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    /// Nothing bad.
    fn default() -> Health {
        Health(Mutex::new((Condition::Well, 0)))
    }
}

/// A call that has not been answered yet. One that is given up after a while says something of the node; one whose caller no longer
/// cares does not.
struct Waiting<'a> {
    cluster: &'a Cluster,
    member: Option<&'a Arc<Member>>,
    since: BootTime,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(member) = self.member
            && self.cluster.clock.boot().since(self.since) >= PATIENCE
        {
            self.cluster.doubt(member, Condition::Silent);
        }
    }
}

fn nobody_to_ask() -> Error {
    Error::new(ErrorKind::Misconfigured, "a cluster has at least one node")
}

fn moving(error: Error) -> Error {
    Error::unavailable(
        "the slot of this key is being moved to another node of the cluster; nothing was done, it passes",
    )
    .effect(Effect::NotApplied)
    .caused_by(error)
}

/// The addresses of all primaries. One that leaves out its host is called as the one that was asked.
fn slots(answer: &Value, asked: &str) -> Option<Vec<Address>> {
    let Value::Array(ranges) = answer else { return None };
    let mut primaries = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let Some(Value::Array(primary)) = parts.get(2) else { return None };
        let host = primary.first().and_then(reply::text).filter(|host| !host.is_empty() && *host != "?");
        let address = Address::of((host.unwrap_or(asked), primary.get(1).and_then(reply::number)?))?;
        if !primaries.contains(&address) {
            primaries.push(address);
        }
    }
    Some(primaries)
}
