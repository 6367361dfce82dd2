//! A claim as one transaction, and its answer.

use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use lock_core::{Claim, HolderInfo, Result, SessionId, Term};

use crate::entry::{self, Entry};
use crate::failure::{damaged, unexpected};
use crate::gather::Request;
use crate::lease::Timed;
use crate::names;
use crate::queue::{Queue, in_order};

/// A claim, and the names of all that it touches.
pub(crate) struct Asked<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) name: String,
    pub(crate) lock: String,
    /// The key that lives as long as the session.
    pub(crate) session: String,
    /// The key that says that no earlier copy of a claim under this name may take effect any more.
    pub(crate) withdrawn: String,
    /// What is written under its name.
    pub(crate) value: String,
    pub(crate) id: SessionId,
    pub(crate) info: &'a HolderInfo,
    /// The session's.
    pub(crate) lease: i64,
    /// One of its own, for the time that was asked.
    pub(crate) timed: Option<Timed>,
    /// Whether it takes a place in the queue, whoever is there.
    pub(crate) takes_a_place: bool,
}

/// What the store says to a claim.
pub(crate) enum Answer {
    /// It holds, and was made at this revision.
    Granted(i64),
    /// Somebody was there.
    Queue(Seen),
}

/// What was said to a transaction, by itself or as a part of another one.
pub(crate) struct Said {
    succeeded: bool,
    parts: Vec<TxnOpResponse>,
    /// The store's, by then.
    revision: Option<i64>,
}

/// A lock as it was at one revision of the store.
pub(crate) struct Seen {
    pub(crate) queue: Queue,
    pub(crate) revision: i64,
    pub(crate) is_withdrawn: bool,
    pub(crate) session_lives: bool,
}

impl Asked<'_> {
    /// Takes a place and looks at the queue, if it is to; otherwise holds at once if nobody is there, or looks.
    ///
    /// Invariant: nothing is made for a session that is over, or under a name that was withdrawn: both are compared in the step
    /// that makes it.
    pub(crate) fn first(&self) -> Txn {
        let with = |further: Vec<Compare>| [self.may(), further].concat();
        let is_new = is_absent(&self.name);
        let is_idle = Compare::create_revision(self.lock.clone(), CompareOp::Equal, 0).with_prefix();
        match &self.timed {
            None if self.takes_a_place => Txn::new()
                .when(with(vec![is_new]))
                .and_then(vec![self.put(self.lease), self.look_at_queue()])
                .or_else(self.looks()),
            Some(_) if self.takes_a_place => {
                // It holds by its place when its turn comes, and lasts for a time of its own from then on.
                let takes_a_place = Txn::new().when(with(vec![is_new])).and_then(vec![self.put(self.lease)]);
                let otherwise = [vec![TxnOp::txn(takes_a_place)], self.looks()].concat();
                Txn::new().when(with(vec![is_idle])).and_then(self.puts()).or_else(otherwise)
            }
            _ => Txn::new().when(with(vec![is_idle])).and_then(self.puts()).or_else(self.looks()),
        }
    }

    /// Takes a place behind those that were there at this revision, if nobody has come since: whoever has gone since makes room.
    pub(crate) fn behind(&self, revision: i64) -> Txn {
        let nobody_came =
            Compare::mod_revision(self.lock.clone(), CompareOp::Less, revision + 1).with_prefix();
        let mut may = self.may();
        may.extend([is_absent(&self.name), nobody_came]);
        Txn::new().when(may).and_then(self.puts()).or_else(self.looks())
    }

    /// The same as what may go together with others.
    pub(crate) fn request(&self, txn: Txn) -> Request {
        // Its name and the lock's, which is shorter, are in it so often at most; and a few words besides.
        let bytes = 10 * self.name.len() + self.value.len() + 256;
        Request::Claim { lock: self.lock.clone(), txn, bytes }
    }

    /// Only looks: it has its place.
    pub(crate) fn look(&self) -> Txn {
        Txn::new().and_then(self.looks())
    }

    fn may(&self) -> Vec<Compare> {
        vec![exists(&self.session), is_absent(&self.withdrawn)]
    }

    fn looks(&self) -> Vec<TxnOp> {
        let keys_only = || Some(GetOptions::new().with_keys_only());
        vec![
            self.look_at_queue(),
            TxnOp::get(self.withdrawn.clone(), keys_only()),
            TxnOp::get(self.session.clone(), keys_only()),
        ]
    }

    fn look_at_queue(&self) -> TxnOp {
        TxnOp::get(self.lock.clone(), Some(GetOptions::new().with_prefix()))
    }

    fn puts(&self) -> Vec<TxnOp> {
        match (&self.timed, self.claim.term) {
            (Some(timed), Term::Fixed(_)) => vec![self.put(timed.id)],
            (Some(timed), _) => vec![self.put(self.lease), self.companion(timed, None)],
            (None, _) => vec![self.put(self.lease)],
        }
    }

    pub(crate) fn put(&self, lease: i64) -> TxnOp {
        TxnOp::put(self.name.clone(), self.value.clone(), Some(PutOptions::new().with_lease(lease)))
    }

    pub(crate) fn companion(&self, timed: &Timed, made_at: Option<i64>) -> TxnOp {
        let value = entry::companions_value(self.id, self.claim, self.info, made_at);
        let name = names::companion(&self.name, self.claim.ticket);
        TxnOp::put(name, value, Some(PutOptions::new().with_lease(timed.id)))
    }
}

impl Said {
    pub(crate) fn alone(response: &TxnResponse) -> Said {
        Said::nested(response, response)
    }

    /// The header of a nested transaction says nothing.
    pub(crate) fn nested(response: &TxnResponse, whole: &TxnResponse) -> Said {
        Said {
            succeeded: response.succeeded(),
            parts: response.op_responses(),
            revision: whole.header().map(ResponseHeader::revision),
        }
    }

    /// When it was made, if it was made by this transaction: known also where the rest of the answer cannot be read.
    pub(crate) fn made_at(&self) -> Option<i64> {
        let took_a_place =
            |part: &TxnOpResponse| matches!(part, TxnOpResponse::Txn(nested) if nested.succeeded());
        self.revision.filter(|_| self.succeeded || self.parts.iter().any(took_a_place))
    }

    /// # Errors
    /// It says none.
    pub(crate) fn revision(&self) -> Result<i64> {
        self.revision.ok_or_else(|| unexpected("a claim"))
    }

    /// What the answer to a transaction that may make the claim says.
    ///
    /// # Errors
    /// It lacks what it should have, or something else lies among the claims.
    pub(crate) fn answer(self) -> Result<Answer> {
        let is_made = |part: &TxnOpResponse| matches!(part, TxnOpResponse::Put(_));
        if self.succeeded && self.parts.iter().all(is_made) {
            return Ok(Answer::Granted(self.revision()?));
        }
        self.seen().map(Answer::Queue)
    }

    /// And to one that looks.
    pub(crate) fn seen(self) -> Result<Seen> {
        let revision = self.revision()?;
        let mut gets = self.parts.into_iter().filter_map(|part| match part {
            TxnOpResponse::Get(get) => Some(get),
            _ => None,
        });
        let all = gets.next().ok_or_else(|| unexpected("a claim"))?;
        let (is_withdrawn, session_lives) = match (gets.next(), gets.next()) {
            (Some(withdrawn), Some(session)) => (!withdrawn.kvs().is_empty(), !session.kvs().is_empty()),
            // It was made, and so both were compared.
            (None, None) if self.succeeded => (false, true),
            _ => return Err(unexpected("a claim")),
        };
        Ok(Seen { queue: queue(all.kvs())?, revision, is_withdrawn, session_lives })
    }
}

/// The claims of a lock.
///
/// # Errors
/// Something else lies among them.
pub(crate) fn queue(kvs: &[etcd_client::KeyValue]) -> Result<Queue> {
    let entries: Result<Vec<_>> = kvs.iter().map(read).collect();
    Ok(in_order(entries?))
}

pub(crate) fn read(kv: &etcd_client::KeyValue) -> Result<Entry> {
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
