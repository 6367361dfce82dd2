//! [`Gather`]: claims and releases that come while others are under way go together, in one transaction.
//!
//! Most of what a transaction costs a server it costs once, however much is in it: measured with 64 tasks, a cycle takes it a
//! third of the time of one alone. So only a few calls are under way at once, and what comes meanwhile waits for the end of
//! one of them. Whoever finds none under way waits for nobody, and sends what it sent before there was this.
//!
//! Invariant: of one lock there is at most one claim in a transaction, behind all deletions. Claims of one transaction are made at
//! one revision, which is the place in the queue and the token; and a look shows what is read at its place in the transaction,
//! which has to be the whole of its revision. So each claim finds what it would have found alone, behind those deletions.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Error as Driver, KvClient, Txn, TxnOp, TxnOpResponse};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::claim::Said;
use crate::failure::{copied, is_refused, is_too_much};

/// How many calls are under way before others wait.
const UNDER_WAY: usize = 2;

/// How many requests go together: a server takes 128 operations in a transaction, the nested ones' parts added.
const TOGETHER: usize = 64;

/// And how large they are in all: a server takes a request of 1.5 MB.
const BYTES: usize = 512 * 1024;

/// What can go together with others.
pub(crate) enum Request {
    /// A transaction that may make a claim of the lock, all of it with leases that last as long as the claims of others do.
    Claim { lock: String, txn: Txn, bytes: usize },
    /// Of a key.
    Deletion(String),
}

/// What became of a request.
pub(crate) enum Sent {
    /// The answer to a claim.
    Claimed(Said),
    /// How many keys were deleted.
    Deleted(i64),
    /// It was refused together with others, and may be the one that is not: it is to be sent [`alone`](Gather::alone).
    Refused,
    /// This line is not used any more, and it has never been sent.
    Closed,
    /// Whoever sent it for all has ended with its runtime.
    Lost,
}

/// The requests over one line.
#[derive(Default)]
pub(crate) struct Gather {
    line: Mutex<Line>,
    /// By how much fewer go together since a server found them too much.
    fewer: AtomicUsize,
}

#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: VecDeque<Waiting>,
    is_closed: bool,
}

/// Of a request whose caller waits to be told, or has gone.
struct Waiting {
    request: Request,
    caller: oneshot::Sender<Told>,
}

enum Told {
    /// It is its turn to send, for those that wait as well.
    Turn(Turn, Request),
    /// Another one has sent it.
    Answer(Result<Sent, Driver>),
}

/// The right to have a call under way. When it ends the next one that waits has it, also where whoever it was given to has gone.
struct Turn(Option<Arc<Gather>>);

impl Gather {
    /// Sends it, together with others where calls are under way. Dropping it leaves the others' requests alone.
    pub(crate) async fn send(self: Arc<Gather>, kv: KvClient, request: Request) -> Result<Sent, Driver> {
        let mut told = match self.enter(request) {
            Entered::Turn(turn, request) => return alone(kv, request, turn).await,
            Entered::Waits(told) => told,
            Entered::Closed => return Ok(Sent::Closed),
        };
        loop {
            match told.await {
                Ok(Told::Turn(turn, request)) => match self.lead(&kv, request, turn) {
                    Led::Alone(request, turn) => return alone(kv, request, turn).await,
                    Led::Together(answer) => told = answer,
                },
                Ok(Told::Answer(answer)) => return answer,
                Err(_) => return Ok(Sent::Lost),
            }
        }
    }

    /// Sends it at once, and together with nothing.
    pub(crate) async fn alone(self: Arc<Gather>, kv: KvClient, request: Request) -> Result<Sent, Driver> {
        self.line().under_way += 1;
        let turn = Turn(Some(self));
        alone(kv, request, turn).await
    }

    /// Nothing more waits here: it would be sent over a line that is not used any more.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut line = self.line();
            line.is_closed = true;
            std::mem::take(&mut line.waiting)
        };
        waiting.into_iter().for_each(|waiting| waiting.hears(Told::Answer(Ok(Sent::Closed))));
    }

    fn enter(self: &Arc<Gather>, request: Request) -> Entered {
        let mut line = self.line();
        if line.is_closed {
            return Entered::Closed;
        }
        if line.under_way < UNDER_WAY {
            line.under_way += 1;
            return Entered::Turn(Turn(Some(self.clone())), request);
        }
        let (waiting, told) = Waiting::new(request);
        line.waiting.push_back(waiting);
        Entered::Waits(told)
    }

    /// Sends what waits together with this one: from a task, as this one's caller may go before the others.
    fn lead(self: &Arc<Gather>, kv: &KvClient, request: Request, turn: Turn) -> Led {
        let Ok(runtime) = Handle::try_current() else { return Led::Alone(request, turn) };
        let (others, of_same_locks) = self.take(&request);
        for waiting in of_same_locks {
            let turn = Turn(Some(self.clone()));
            waiting.has_its(turn);
        }
        if others.is_empty() {
            return Led::Alone(request, turn);
        }
        let (own, answer) = Waiting::new(request);
        let mut all = vec![own];
        all.extend(others);
        runtime.spawn(together(kv.clone(), all, turn));
        Led::Together(answer)
    }

    /// What goes together with this request; and what cannot, being claims of the same locks: those go by themselves at once, each
    /// with a turn of its own, which is counted here.
    fn take(&self, first: &Request) -> (Vec<Waiting>, Vec<Waiting>) {
        let room = TOGETHER.saturating_sub(1 + self.fewer.load(Ordering::Relaxed));
        let (mut together, mut of_same_locks) = (Vec::new(), Vec::new());
        let (mut locks, mut bytes) = (HashSet::new(), first.bytes());
        locks.extend(first.lock().cloned());
        let mut line = self.line();
        while together.len() < room && bytes < BYTES {
            let Some(waiting) = line.waiting.pop_front() else { break };
            if waiting.caller.is_closed() {
                continue;
            }
            if waiting.request.lock().is_some_and(|lock| !locks.insert(lock.clone())) {
                of_same_locks.push(waiting);
                continue;
            }
            bytes += waiting.request.bytes();
            together.push(waiting);
        }
        line.under_way += of_same_locks.len();
        (together, of_same_locks)
    }

    /// A turn has ended.
    fn ended(self: Arc<Gather>) {
        loop {
            let next = {
                let mut line = self.line();
                let is_one_too_many = line.under_way > UNDER_WAY;
                let next = if is_one_too_many { None } else { line.waiting.pop_front() };
                if next.is_none() {
                    line.under_way = line.under_way.saturating_sub(1);
                }
                next
            };
            match next {
                Some(waiting) if waiting.caller.is_closed() => {}
                // If it has gone since, this turn ends as every other one.
                Some(waiting) => return waiting.has_its(Turn(Some(self))),
                None => return,
            }
        }
    }

    /// It took more than a server takes.
    fn was_too_much(&self, requests: usize) {
        self.fewer.fetch_max(TOGETHER.saturating_sub(requests / 2).min(TOGETHER - 1), Ordering::Relaxed);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entered {
    Turn(Turn, Request),
    Waits(oneshot::Receiver<Told>),
    Closed,
}

enum Led {
    Alone(Request, Turn),
    Together(oneshot::Receiver<Told>),
}

impl Request {
    fn lock(&self) -> Option<&String> {
        match self {
            Request::Claim { lock, .. } => Some(lock),
            Request::Deletion(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Request::Claim { bytes, .. } => *bytes,
            Request::Deletion(name) => name.len(),
        }
    }
}

impl Waiting {
    fn new(request: Request) -> (Waiting, oneshot::Receiver<Told>) {
        let (caller, told) = oneshot::channel();
        (Waiting { request, caller }, told)
    }

    fn has_its(self, turn: Turn) {
        let _ = self.caller.send(Told::Turn(turn, self.request));
    }

    fn hears(self, told: Told) {
        let _ = self.caller.send(told);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gather) = self.0.take() {
            gather.ended();
        }
    }
}

async fn alone(mut kv: KvClient, request: Request, _turn: Turn) -> Result<Sent, Driver> {
    match request {
        Request::Claim { txn, .. } => kv.txn(txn).await.map(|response| Sent::Claimed(Said::alone(&response))),
        Request::Deletion(name) => {
            kv.delete(name, None).await.map(|response| Sent::Deleted(response.deleted()))
        }
    }
}

/// Sends them in one transaction, and tells each what became of it.
async fn together(mut kv: KvClient, all: Vec<Waiting>, turn: Turn) {
    let (mut parts, mut nested) = (Vec::new(), Vec::new());
    let (mut callers, mut callers_nested) = (Vec::new(), Vec::new());
    for Waiting { request, caller } in all {
        match request {
            Request::Deletion(name) => {
                parts.push(TxnOp::delete(name, None));
                callers.push(caller);
            }
            Request::Claim { txn, .. } => {
                nested.push(TxnOp::txn(txn));
                callers_nested.push(caller);
            }
        }
    }
    parts.append(&mut nested);
    callers.append(&mut callers_nested);
    let answer = tokio::select! {
        biased;
        answer = kv.txn(Txn::new().and_then(parts)) => answer,
        () = all_have_gone(&mut callers) => return,
    };
    match answer {
        Ok(response) => {
            for (caller, part) in callers.into_iter().zip(response.op_responses()) {
                let sent = match part {
                    TxnOpResponse::Delete(deleted) => Sent::Deleted(deleted.deleted()),
                    TxnOpResponse::Txn(nested) => Sent::Claimed(Said::nested(&nested, &response)),
                    // No answer to what was asked.
                    TxnOpResponse::Put(_) | TxnOpResponse::Get(_) => continue,
                };
                let _ = caller.send(Told::Answer(Ok(sent)));
            }
        }
        Err(error) => {
            if is_too_much(&error)
                && let Some(gather) = &turn.0
            {
                gather.was_too_much(callers.len());
            }
            for caller in callers {
                let told = if is_refused(&error) { Ok(Sent::Refused) } else { Err(copied(&error)) };
                let _ = caller.send(Told::Answer(told));
            }
        }
    }
}

/// Nobody would hear the answer. A server that says nothing keeps no task.
async fn all_have_gone(callers: &mut [oneshot::Sender<Told>]) {
    for caller in callers {
        caller.closed().await;
    }
}

#[cfg(test)]
mod tests;
