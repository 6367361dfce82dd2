//! A claim as one transaction, and its answer.

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use lock_core::{Claim, Result, Term};

use crate::entry::Entry;
use crate::failure::{damaged, unexpected};
use crate::names::{self, Names};
use crate::queue::Queue;

/// A claim, and the names of all that it touches.
pub(crate) struct Asked<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) name: String,
    pub(crate) lock: String,
    pub(crate) session: String,
    pub(crate) value: String,
    /// The session's.
    pub(crate) lease: i64,
    /// One of its own, for the time that was asked.
    pub(crate) own_lease: Option<i64>,
}

/// What the store says to a claim.
pub(crate) enum Answer {
    /// Nobody was there: it holds, and was made at this revision.
    Granted(i64),
    /// Somebody was there.
    Queue { queue: Queue, revision: i64, is_withdrawn: bool, session_lives: bool },
}

impl Asked<'_> {
    /// Holds at once if nobody is there. Otherwise takes a place, if it is to wait, and looks at the queue.
    ///
    /// Invariant: nothing is made for a session that is over, or under a name that was withdrawn: both are compared in the step
    /// that makes it.
    pub(crate) fn first(&self, names: &Names) -> Txn {
        let withdrawn = names.withdrawn(&self.name);
        let may = || vec![exists(&self.session), is_absent(&withdrawn)];
        let is_idle = Compare::create_revision(self.lock.clone(), CompareOp::Equal, 0).with_prefix();
        let mut whole = may();
        whole.push(is_idle);
        let mut looks = vec![
            TxnOp::get(self.lock.clone(), Some(GetOptions::new().with_prefix())),
            TxnOp::get(withdrawn.clone(), Some(GetOptions::new().with_keys_only())),
            TxnOp::get(self.session.clone(), Some(GetOptions::new().with_keys_only())),
        ];
        if self.claim.wait {
            let mut if_new = may();
            if_new.push(is_absent(&self.name));
            let takes_a_place = Txn::new().when(if_new).and_then(self.puts(self.lease));
            looks.insert(0, TxnOp::txn(takes_a_place));
        }
        Txn::new().when(whole).and_then(self.puts(self.own_lease.unwrap_or(self.lease))).or_else(looks)
    }

    /// Takes a place behind those that were there at this revision, if nobody has come since: whoever has gone since makes room.
    pub(crate) fn behind(&self, names: &Names, revision: i64) -> Txn {
        let nobody_came =
            Compare::mod_revision(self.lock.clone(), CompareOp::Less, revision + 1).with_prefix();
        let withdrawn = names.withdrawn(&self.name);
        Txn::new()
            .when(vec![exists(&self.session), is_absent(&withdrawn), is_absent(&self.name), nobody_came])
            .and_then(self.puts(self.own_lease.unwrap_or(self.lease)))
    }

    fn puts(&self, lease: i64) -> Vec<TxnOp> {
        let put = |name: String, lease| {
            TxnOp::put(name, self.value.clone(), Some(PutOptions::new().with_lease(lease)))
        };
        match self.claim.term {
            Term::Session { at_least } if !at_least.is_zero() => {
                vec![put(self.name.clone(), self.lease), put(names::companion(&self.name), lease)]
            }
            _ => vec![put(self.name.clone(), lease)],
        }
    }

    pub(crate) fn answer(&self, response: &TxnResponse) -> Result<Answer> {
        let revision = response.header().ok_or_else(|| unexpected("a claim"))?.revision();
        if response.succeeded() {
            return Ok(Answer::Granted(revision));
        }
        let mut gets = response.op_responses().into_iter().filter_map(|response| match response {
            TxnOpResponse::Get(get) => Some(get),
            _ => None,
        });
        let (Some(all), Some(withdrawn), Some(session)) = (gets.next(), gets.next(), gets.next()) else {
            return Err(unexpected("a claim"));
        };
        let queue = queue(all.kvs())?;
        let (is_withdrawn, session_lives) = (!withdrawn.kvs().is_empty(), !session.kvs().is_empty());
        Ok(Answer::Queue { queue, revision, is_withdrawn, session_lives })
    }
}

/// The claims of a lock.
///
/// # Errors
/// Something else lies among them.
pub(crate) fn queue(kvs: &[etcd_client::KeyValue]) -> Result<Queue> {
    let entries: Result<Vec<_>> = kvs.iter().map(entry).collect();
    Ok(Queue::new(entries?))
}

pub(crate) fn entry(kv: &etcd_client::KeyValue) -> Result<Entry> {
    let name = String::from_utf8_lossy(kv.key()).into_owned();
    let read =
        kv.value_str().ok().and_then(|value| Entry::read(&name, value, kv.create_revision(), kv.lease()));
    read.ok_or_else(|| damaged(&name))
}

pub(crate) fn exists(name: &str) -> Compare {
    Compare::create_revision(name, CompareOp::Greater, 0)
}

pub(crate) fn is_absent(name: &str) -> Compare {
    Compare::create_revision(name, CompareOp::Equal, 0)
}

pub(crate) fn is_made_at(name: &str, revision: i64) -> Compare {
    Compare::create_revision(name, CompareOp::Equal, revision)
}
