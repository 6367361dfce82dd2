//! [`Cluster`]: which node has which domain, as the nodes themselves say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lock_core::{Domain, Effect, Error, ErrorKind, LockKey, Result};
use redis::{Cmd, ConnectionInfo, Value};

use crate::address::Address;
use crate::dial::{Purpose, Target};
use crate::failure::{Redirection, is_node_well, redirection, unexpected};
use crate::link::Link;
use crate::options::RedisOptions;
use crate::reply;
use crate::store::{Listening, Node, Question};

/// The keys are dealt out to so many domains. It never changes: it is part of each key's name.
const DOMAINS: u32 = 256;

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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<Address, Arc<Member>>,
    /// Each of them is among the members.
    owners: HashMap<Domain, Arc<Member>>,
    /// The primaries, as they are called in the cluster.
    named: Vec<Address>,
    /// Whom to ask when nobody is known to have a domain: another one after each failure.
    turn: usize,
}

/// A node, and how it is called in the cluster.
#[derive(Debug)]
struct Member {
    address: Address,
    node: Node,
}

impl Cluster {
    pub(crate) fn new(seeds: Vec<Address>, like: ConnectionInfo, options: RedisOptions) -> Cluster {
        Cluster { seeds, like, options, state: Mutex::default() }
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
        for _ in 0..=REDIRECTIONS {
            let (member, is_known) = self.owner(domain).await?;
            let Member { address, node } = &*member;
            let error = match self.watched(address, node.ask(listener, question)).await {
                Ok(answer) => {
                    if !is_known {
                        self.is_owned_by(domain, member);
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match redirection(&error) {
                Some(Redirection::Moved(host, port)) => {
                    let next = Address::new(host.unwrap_or(&address.host), port);
                    self.is_owned_by(domain, self.member(&next));
                }
                Some(Redirection::Moving(_)) => return Err(moving(error).at(node.commands.endpoint())),
                None => return Err(error.at(node.commands.endpoint())),
            }
        }
        Err(Error::unavailable("the nodes do not agree which of them has the slot of this key")
            .effect(Effect::NotApplied)
            .at(self.endpoint()))
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
        let Member { address, node } = &*member;
        self.watched(address, node.commands.call_asking(command))
            .await
            .map_err(|error| error.at(node.commands.endpoint()))
    }

    /// All nodes that have slots, as the first of them says that answers.
    pub(crate) async fn primaries(&self) -> Result<Vec<Node>> {
        let nobody_is_known = self.state().named.is_empty();
        // At first, whoever of them is not there is not waited for.
        let candidates = if nobody_is_known { self.candidates() } else { vec![self.next_candidate()?] };
        let mut asked: FuturesUnordered<_> =
            candidates.iter().map(|address| self.primaries_as_told_by(address)).collect();
        let mut refusal: Option<Error> = None;
        while let Some(told) = asked.next().await {
            match told {
                Ok(named) => {
                    self.state().named.clone_from(&named);
                    self.forget_strangers();
                    return Ok(named.iter().map(|address| self.member(address).node.clone()).collect());
                }
                // One that answers and refuses says more than those that are not there.
                Err(error) => {
                    let says_more = *error.kind() != ErrorKind::Unavailable;
                    if says_more || refusal.is_none() {
                        refusal = Some(error);
                    }
                }
            }
        }
        Err(refusal
            .unwrap_or_else(|| Error::new(ErrorKind::Misconfigured, "a cluster has at least one node")))
    }

    async fn primaries_as_told_by(&self, address: &Address) -> Result<Vec<Address>> {
        let member = self.member(address);
        let node = &member.node;
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        let told = async {
            let answer = self.watched(address, node.commands.call(&command)).await?;
            let named = slots(&answer, &address.host).ok_or_else(|| unexpected("CLUSTER SLOTS", &answer))?;
            if named.is_empty() { Err(Error::unavailable("no node has any slot")) } else { Ok(named) }
        };
        told.await.map_err(|error| error.at(node.commands.endpoint()))
    }

    /// Who has this domain, and whether that is known; otherwise somebody who knows.
    async fn owner(&self, domain: Domain) -> Result<(Arc<Member>, bool)> {
        let (known, nobody) = {
            let state = self.state();
            (state.owners.get(&domain).cloned(), state.named.is_empty())
        };
        if nobody {
            self.primaries().await?;
        }
        match known {
            Some(owner) => Ok((owner, true)),
            None => Ok((self.member(&self.next_candidate()?), false)),
        }
    }

    fn is_owned_by(&self, domain: Domain, owner: Arc<Member>) {
        let mut state = self.state();
        let State { members, owners, named, .. } = &mut *state;
        let address = &owner.address;
        if owners.get(&domain).is_none_or(|known| known.address != *address) {
            if !named.contains(address) && !self.seeds.contains(address) {
                named.push(address.clone());
            }
            // It may have been forgotten while it was asked.
            let owner = members.entry(address.clone()).or_insert(owner).clone();
            owners.insert(domain, owner);
        }
    }

    fn candidates(&self) -> Vec<Address> {
        let state = self.state();
        state.named.iter().chain(&self.seeds).cloned().collect()
    }

    fn next_candidate(&self) -> Result<Address> {
        let (candidates, turn) = (self.candidates(), self.state().turn);
        let next = candidates.get(turn % candidates.len().max(1)).cloned();
        next.ok_or_else(|| Error::new(ErrorKind::Misconfigured, "a cluster has at least one node"))
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
        let member = Arc::new(Member { address: address.clone(), node });
        state.members.insert(address.clone(), member.clone());
        member
    }

    /// Connections to nodes that are none any more, or that were asked under another name, end when nobody uses them.
    fn forget_strangers(&self) {
        let mut state = self.state();
        let State { members, owners, named, .. } = &mut *state;
        members.retain(|address, _| {
            named.contains(address) || owners.values().any(|owner| owner.address == *address)
        });
    }

    /// Awaits an answer. Where none comes, or is given up, somebody else may have taken over from this node.
    async fn watched<T>(&self, address: &Address, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut doubt = Doubt { cluster: self, address: Some(address) };
        let answer = call.await;
        if answer.as_ref().err().is_none_or(is_node_well) {
            doubt.address = None;
        }
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unless it is taken back, another node is asked next for what this one had.
struct Doubt<'a> {
    cluster: &'a Cluster,
    address: Option<&'a Address>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            let mut state = self.cluster.state();
            state.owners.retain(|_, owner| owner.address != *address);
            state.turn = state.turn.wrapping_add(1);
        }
    }
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
