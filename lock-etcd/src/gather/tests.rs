//! What goes together, on a real server: one runtime thread, so that it is known who is under way and who waits.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use etcd_client::{Client, GetOptions, PutOptions};
use lock_conformance::servers::{Etcd, EtcdSetup};
use tokio::task::{JoinSet, yield_now};

use super::*;
use crate::claim::{Answer, is_absent};
use crate::entry;
use lock_core::{Claim, HolderInfo, LockKey, Mode, Permit, SessionId, Ticket};

type Sending = Pin<Box<dyn Future<Output = Result<Sent, Driver>> + Send>>;

/// Requests of one line.
struct Sender {
    gather: Arc<Gather>,
    kv: KvClient,
}

impl Sender {
    async fn of(server: &Etcd) -> Sender {
        let client = Client::connect([server.address()], None).await.unwrap();
        Sender { gather: Arc::default(), kv: client.kv_client() }
    }

    /// It is under way, or waits behind others.
    fn begin(&self, request: Request) -> Sending {
        let mut sending: Sending = Box::pin(self.gather.clone().send(self.kv.clone(), request));
        assert!(is_pending(&mut sending));
        sending
    }

    /// So many are under way that others wait: deletions of nothing.
    fn busy(&self) -> Vec<Sending> {
        (0..UNDER_WAY).map(|_| self.begin(deletion("none", "x"))).collect()
    }

    fn waiting(&self) -> usize {
        self.gather.line().waiting.len()
    }

    async fn are_under_way(&self, calls: usize) {
        while self.gather.line().under_way != calls {
            yield_now().await;
        }
    }
}

fn is_pending(sending: &mut Sending) -> bool {
    matches!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

/// A claim that waits: it takes its place, and looks at the queue.
fn claim(lock: &str, name: &str) -> Request {
    leased(lock, name, 0)
}

fn leased(lock: &str, name: &str, lease: i64) -> Request {
    let key = LockKey::new("k").unwrap();
    let claim = Claim::new(key, Ticket(1), Mode::Exclusive, Permit::MUTEX).waiting(true);
    let value = entry::value(SessionId::from_u128(1), &claim, &HolderInfo::new(1));
    let (lock, name) = (format!("l/{lock}/"), format!("l/{lock}/{name}"));
    let bytes = name.len() + value.len();
    let look = || TxnOp::get(lock.clone(), Some(GetOptions::new().with_prefix()));
    let txn = Txn::new()
        .when(vec![is_absent(&name)])
        .and_then(vec![TxnOp::put(name, value, Some(PutOptions::new().with_lease(lease))), look()])
        .or_else(vec![look()]);
    Request::Claim { lock, txn, bytes }
}

fn deletion(lock: &str, name: &str) -> Request {
    Request::Deletion(format!("l/{lock}/{name}"))
}

/// The names in its lock's queue in their order, the revisions of their making, and that of the look.
fn seen(sent: Result<Sent, Driver>) -> (Vec<(String, i64)>, i64) {
    let Ok(Sent::Claimed(said)) = sent else { panic!("no answer to a claim") };
    let Ok(Answer::Queue(seen)) = said.answer() else { panic!("it did not look") };
    let entries = seen.queue.entries().iter();
    (entries.map(|entry| (entry.name.clone(), entry.revision)).collect(), seen.revision)
}

fn deleted(sent: &Result<Sent, Driver>) -> i64 {
    let Ok(Sent::Deleted(deleted)) = *sent else { panic!("no answer to a deletion") };
    deleted
}

#[tokio::test]
async fn those_that_wait_make_one_transaction_in_which_deletions_come_first() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    let made = seen(sender.begin(claim("a", "old")).await);
    server.stop().await.unwrap();
    let mut busy = sender.busy();
    let mut new = sender.begin(claim("a", "new"));
    let (gone, never) = (sender.begin(deletion("a", "old")), sender.begin(deletion("a", "none")));
    let other = sender.begin(claim("b", "x"));
    assert_eq!(sender.waiting(), 4);
    drop(busy.pop());
    assert!(is_pending(&mut new));
    assert_eq!(sender.waiting(), 0, "it has taken them along");
    server.go_on().unwrap();
    let (new, gone, never, other) = tokio::join!(new, gone, never, other);

    assert_eq!((deleted(&gone), deleted(&never)), (1, 0));
    let ((new, at), (other, other_at)) = (seen(new), seen(other));
    assert_eq!(new, [("l/a/new".to_owned(), at)], "what was deleted with it is not seen");
    assert_eq!((other, other_at), (vec![("l/b/x".to_owned(), at)], at));
    assert!(made.1 < at);
    drop(busy);
    sender.are_under_way(0).await;
}

#[tokio::test]
async fn claims_of_one_lock_are_made_one_after_the_other() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    let mut sending = JoinSet::new();
    for n in 0..40 {
        let (lock, name) = (["same", "other"][n % 2], n.to_string());
        sending.spawn(sender.gather.clone().send(sender.kv.clone(), claim(lock, &name)));
    }
    let mut made = Vec::new();
    while let Some(sent) = sending.join_next().await {
        let (queue, at) = seen(sent.unwrap());
        let own = queue.last().unwrap().clone();
        assert_eq!(own.1, at, "it is the last in its queue, as nobody came behind it");
        assert!(queue.windows(2).all(|pair| pair[0].1 < pair[1].1), "{queue:?}");
        made.push(own.0);
    }
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 40);
    sender.are_under_way(0).await;
}

#[tokio::test]
async fn one_that_is_refused_fails_no_other() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    server.stop().await.unwrap();
    let mut busy = sender.busy();
    let (mut good, bad) = (sender.begin(claim("good", "x")), sender.begin(leased("bad", "x", 12_345)));
    drop(busy.pop());
    assert!(is_pending(&mut good));
    server.go_on().unwrap();
    let (good, bad) = tokio::join!(good, bad);
    assert!(matches!((good, bad), (Ok(Sent::Refused), Ok(Sent::Refused))), "nothing has come of either");
    let alone = |request| sender.gather.clone().alone(sender.kv.clone(), request);
    assert_eq!(seen(alone(claim("good", "x")).await).0.len(), 1);
    assert!(matches!(alone(leased("bad", "x", 12_345)).await, Err(Driver::GRpcStatus(_))));
    drop(busy);
    sender.are_under_way(0).await;
}

#[tokio::test]
async fn what_is_too_much_for_a_server_is_not_tried_again() {
    let server = EtcdSetup::new().arguments(["--max-txn-ops", "16"]).start().await.unwrap();
    let sender = Sender::of(&server).await;
    let round = async || {
        let requests = (0..100).map(|n| claim(&n.to_string(), "x"));
        let mut sending: JoinSet<_> =
            requests.map(|request| sender.gather.clone().send(sender.kv.clone(), request)).collect();
        let mut refused = 0;
        while let Some(sent) = sending.join_next().await {
            refused += usize::from(matches!(sent.unwrap(), Ok(Sent::Refused)));
        }
        refused
    };
    assert!(round().await >= TOGETHER);
    while round().await > 0 {}
    assert!(sender.gather.fewer.load(Ordering::Relaxed) >= TOGETHER - 16);
}

#[tokio::test]
async fn whoever_has_its_turn_and_goes_leaves_it_to_the_next() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    server.stop().await.unwrap();
    let mut busy = sender.busy();
    let woken = sender.begin(claim("woken", "x"));
    let (gone, next) = (sender.begin(claim("gone", "x")), sender.begin(claim("next", "x")));
    drop(gone);
    drop(busy.pop());
    assert_eq!(sender.waiting(), 2, "one is woken");
    drop(woken);
    assert_eq!(sender.waiting(), 0, "the next that is there has its turn");
    server.go_on().unwrap();
    assert_eq!(seen(next.await).0.len(), 1);
    drop(busy);
    sender.are_under_way(0).await;
    assert_eq!((server.keys("l/woken/").await.unwrap(), server.keys("l/gone/").await.unwrap()), (0, 0));
}

#[tokio::test]
async fn whoever_sends_for_others_and_goes_takes_nothing_from_them() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    server.stop().await.unwrap();
    let mut busy = sender.busy();
    let (mut sends, other) = (sender.begin(claim("sends", "x")), sender.begin(claim("other", "x")));
    drop(busy.pop());
    assert!(is_pending(&mut sends));
    drop(busy);
    sender.are_under_way(1).await;
    drop(sends);
    server.go_on().unwrap();
    assert_eq!(seen(other.await).0.len(), 1);
    sender.are_under_way(0).await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_up() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    server.stop().await.unwrap();
    let mut busy = sender.busy();
    let (mut sends, other) = (sender.begin(claim("sends", "x")), sender.begin(claim("other", "x")));
    drop(busy.pop());
    assert!(is_pending(&mut sends));
    drop(busy);
    sender.are_under_way(1).await;
    yield_now().await;
    assert_eq!(sender.gather.line().under_way, 1, "it waits for its answer");
    drop((sends, other));
    sender.are_under_way(0).await;
    server.go_on().unwrap();
}

#[test]
fn a_runtime_that_ends_takes_only_what_it_has_sent() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (own, other) = (runtime(), runtime());
    own.block_on(async {
        let server = Etcd::start().await.unwrap();
        let sender = Sender::of(&server).await;
        server.stop().await.unwrap();
        let mut busy = sender.busy();
        let mut theirs = sender.begin(claim("theirs", "x"));
        let ours = sender.begin(claim("ours", "x"));
        drop(busy.pop());
        {
            let _entered = other.enter();
            assert!(is_pending(&mut theirs), "it sends both, on the other runtime");
        }
        let later = sender.begin(claim("later", "x"));
        server.go_on().unwrap();
        other.shutdown_background();
        assert!(matches!(ours.await, Ok(Sent::Lost)));
        assert_eq!(seen(later.await).0.len(), 1);
        drop(busy);
        sender.are_under_way(0).await;
    });
}

#[tokio::test]
async fn what_waits_for_a_line_that_is_given_up_was_never_sent() {
    let server = Etcd::start().await.unwrap();
    let sender = Sender::of(&server).await;
    let busy = sender.busy();
    let waits = sender.begin(claim("waits", "x"));
    sender.gather.close();
    assert!(matches!(waits.await, Ok(Sent::Closed)));
    let send = sender.gather.clone().send(sender.kv.clone(), claim("later", "x"));
    assert!(matches!(send.await, Ok(Sent::Closed)));
    for sending in busy {
        assert_eq!(deleted(&sending.await), 0, "it was under way");
    }
    assert_eq!(server.keys("l/").await.unwrap(), 0);
}
