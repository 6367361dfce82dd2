//! Fenced writes, on a real server: a stale token does not write, whatever it tries.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lock_conformance::servers::{Etcd, EtcdSetup};
use lock_core::{
    Connector, Effect, Error, ErrorKind, Fence, FencingToken, LockClient, MemoryBackend, Mode, StoreUrl,
};
use lock_etcd::etcd_client::{
    Client, ConnectOptions, DeleteOptions, KvClient, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use lock_etcd::{EtcdConnector, FencedWrites, Refused, stands};

async fn kv(server: &Etcd) -> KvClient {
    Client::connect([server.address()], None).await.unwrap().kv_client()
}

async fn locks(server: &Etcd) -> LockClient {
    let mut url = StoreUrl::parse(&format!("etcd://{}", server.address())).unwrap();
    LockClient::builder(EtcdConnector::new().connect(&mut url).await.unwrap()).build().unwrap()
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::put(key, value, None)
}

async fn text(server: &Etcd, key: &str) -> Option<String> {
    server.get(key).await.unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn failure<T: std::fmt::Debug>(answer: Result<T, Refused>) -> Error {
    match answer {
        Err(Refused::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_holder_that_lost_its_lock_writes_nothing() {
    let server = Etcd::start().await.unwrap();
    let (client, mut kv) = (locks(&server).await, kv(&server).await);
    let account = FencedWrites::new("account/fence");
    let lock = client.mutex("account").unwrap();

    let paused = lock.acquire().await.unwrap();
    client.force_release("account", None).await.unwrap();
    let successor = lock.acquire().await.unwrap();

    account.write(&mut kv, &successor, [put("account/42", "2")]).await.unwrap();
    let revision = server.revision().await.unwrap();
    let late = account.write(&mut kv, &paused, [put("account/42", "1"), put("account/43", "1")]).await;
    assert!(
        matches!(late, Err(Refused::Stale { token, admitted })
            if token == paused.token() && admitted == successor.token().get()),
        "{late:?}"
    );
    assert_eq!(server.revision().await.unwrap(), revision, "something was written");
    account.write(&mut kv, &successor, [put("account/42", "3")]).await.unwrap();
    assert_eq!(text(&server, "account/42").await.as_deref(), Some("3"));
    assert_eq!(text(&server, "account/43").await, None);
}

/// Every sequence of four writes by tokens 1 to 3, exclusive or shared, is admitted or refused as the fence in memory does, and
/// leaves the same marks.
#[tokio::test]
async fn it_admits_what_a_fence_in_memory_admits() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let grants: Vec<_> =
        (1..=3).flat_map(|number| [(Mode::Exclusive, number), (Mode::Shared, number)]).collect();
    for round in 0..grants.len().pow(4) {
        let writes = FencedWrites::new(format!("fence-{round}"));
        let mut fence = Fence::new();
        let (mut written, mut passed) = (0, 0);
        for step in 0..4 {
            let (mode, number) = grants[round / grants.len().pow(step) % grants.len()];
            let here = fence.admit(mode, token(number)).map_err(|stale| stale.admitted);
            let data = TxnOp::put("log", format!("{round}-{step}"), Some(PutOptions::new().with_prev_key()));
            let there = match writes.write_as(&mut kv, mode, token(number), [data]).await {
                Ok(answers) => {
                    assert!(matches!(answers[..], [TxnOpResponse::Put(_)]), "{answers:?}");
                    written += 1;
                    Ok(())
                }
                Err(Refused::Stale { admitted, .. }) => Err(admitted),
                Err(other) => panic!("{other}"),
            };
            passed += i32::from(here.is_ok());
            assert_eq!(there, here, "round {round}, step {step}: {mode:?} {number}");
        }
        assert_eq!(written, passed);
        let marks = kv
            .txn(Txn::new().and_then(
                ["highest", "exclusive"].map(|mark| TxnOp::get(format!("fence-{round}/{mark}"), None)),
            ))
            .await
            .unwrap();
        let (highest, exclusive) = fence.marks();
        for (answer, expected) in marks.op_responses().iter().zip([highest, exclusive]) {
            let TxnOpResponse::Get(got) = answer else { panic!("{answer:?}") };
            assert_eq!(got.kvs()[0].value_str().unwrap(), format!("token {expected:016}"), "round {round}");
        }
    }
}

/// Each writes under rising tokens that lie between those of the other. Whatever one finds in the data was written under a token
/// below its own.
#[tokio::test]
async fn of_two_writers_that_race_none_overwrites_a_later_one() {
    let server = Etcd::start().await.unwrap();
    let writer = |first: u64| {
        let server = &server;
        async move {
            let mut kv = kv(server).await;
            let mut outcomes = [0; 2];
            for number in (first..400).step_by(2) {
                let data = TxnOp::put("data", number.to_string(), Some(PutOptions::new().with_prev_key()));
                let answer = FencedWrites::new("fence")
                    .write_as(&mut kv, Mode::Exclusive, token(number), [data])
                    .await;
                match answer {
                    Ok(answers) => {
                        let [TxnOpResponse::Put(put)] = &answers[..] else { panic!("{answers:?}") };
                        let before = put.prev_key().map_or(0, |kv| kv.value_str().unwrap().parse().unwrap());
                        assert!(before < number, "{number} overwrote {before}");
                        outcomes[0] += 1;
                    }
                    Err(Refused::Stale { admitted, .. }) => {
                        assert!(admitted > number, "{number} was refused for {admitted}");
                        outcomes[1] += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            outcomes
        }
    };
    let (odd, even) = tokio::join!(writer(1), writer(2));
    assert_eq!(odd[0] + odd[1] + even[0] + even[1], 399);
    // The last token is stale for nobody.
    assert_eq!(text(&server, "data").await.as_deref(), Some("399"));
    assert_eq!(text(&server, "fence/highest").await.unwrap(), "token 0000000000000399");
}

#[tokio::test]
async fn a_write_that_etcd_refuses_leaves_the_fence_where_it_was() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let writes = FencedWrites::new("fence");
    let refused: [(Vec<TxnOp>, &str); 6] = [
        (vec![put("a", "1"), TxnOp::put("b", "1", Some(PutOptions::new().with_lease(42)))], "lease"),
        (vec![put("a", "1"), put("a", "2")], "write one key"),
        (vec![put("fence/highest", "1")], "of the fence's"),
        (vec![put("fence/exclusive", "1")], "of the fence's"),
        (vec![TxnOp::delete("fence", Some(DeleteOptions::new().with_prefix()))], "of the fence's"),
        (vec![put("a", "1"), put("", "1")], "key is not provided"),
    ];
    for mode in [Mode::Exclusive, Mode::Shared] {
        for first in [true, false] {
            for (operations, words) in &refused {
                let revision = server.revision().await.unwrap();
                let error = failure(writes.write_as(&mut kv, mode, token(7), operations.clone()).await);
                assert!(error.to_string().contains(words), "{mode:?}, first {first}: {error}");
                assert_eq!(error.kind(), &ErrorKind::InvalidInput, "{error}");
                assert_eq!(error.took_effect(), Effect::NotApplied, "{error}");
                assert_eq!(server.revision().await.unwrap(), revision, "something was written: {error}");
            }
            writes.write_as(&mut kv, mode, token(7), []).await.unwrap();
        }
        kv.delete("fence/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_may_have_as_many_operations_as_are_told() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let writes = FencedWrites::new("fence");
    let operations = |count: u32| (0..count).map(|number| put(&format!("k{number}"), "")).collect::<Vec<_>>();
    for mode in [Mode::Exclusive, Mode::Shared, Mode::Permits { held: 1, of: 2 }] {
        // A shared one is a successor to an exclusive one.
        kv.delete("fence/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
        let answers = writes.write_as(&mut kv, mode, token(7), operations(120)).await.unwrap();
        assert_eq!(answers.len(), 120);
        let error = failure(writes.write_as(&mut kv, mode, token(7), operations(128)).await);
        assert!(error.to_string().contains("--max-txn-ops"), "{error}");
        assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::InvalidInput, Effect::NotApplied));
    }
}

/// Under either key, for either mode: an error names the key, and what lies there stays.
#[tokio::test]
async fn what_is_no_mark_is_neither_obeyed_nor_overwritten() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let writes = FencedWrites::new("fence");
    let foreign =
        ["", "7", "0", "words", "~", "token", "token -", "token 9999999999999999", "Token 0000000000000001"];
    for key in ["fence/highest", "fence/exclusive"] {
        for other in [None, Some("token 0000000000000003")] {
            for value in foreign {
                for mode in [Mode::Exclusive, Mode::Shared] {
                    kv.delete("fence/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
                    if let Some(mark) = other {
                        server.put("fence/highest", mark).await.unwrap();
                        server.put("fence/exclusive", mark).await.unwrap();
                    }
                    server.put(key, value).await.unwrap();
                    let error = failure(writes.write_as(&mut kv, mode, token(5), [put("data", "1")]).await);
                    assert_eq!(error.kind(), &ErrorKind::Damaged, "{error}");
                    assert_eq!(error.took_effect(), Effect::NotApplied, "{error}");
                    assert!(error.to_string().contains(key), "{error}");
                    assert_eq!(text(&server, key).await.as_deref(), Some(value), "{mode:?}");
                    assert_eq!(text(&server, "data").await, None, "{mode:?}, {value:?} under {key}");
                }
            }
        }
    }
}

/// A fence of which one key was deleted goes by the other.
#[tokio::test]
async fn half_a_fence_refuses_what_it_knows_of() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let writes = FencedWrites::new("fence");
    server.put("fence/exclusive", "token 0000000000000005").await.unwrap();
    for mode in [Mode::Exclusive, Mode::Shared] {
        let late = writes.write_as(&mut kv, mode, token(4), []).await;
        assert!(matches!(late, Err(Refused::Stale { admitted: 5, .. })), "{late:?}");
    }
    server.delete("fence/exclusive").await.unwrap();
    server.put("fence/highest", "token 0000000000000005").await.unwrap();
    let late = writes.write_as(&mut kv, Mode::Exclusive, token(4), []).await;
    assert!(matches!(late, Err(Refused::Stale { admitted: 5, .. })), "{late:?}");
    writes.write_as(&mut kv, Mode::Shared, token(4), []).await.unwrap();
    assert_eq!(text(&server, "fence/highest").await.unwrap(), "token 0000000000000005");
}

#[tokio::test]
async fn what_was_not_answered_may_have_happened() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let writes = FencedWrites::new("fence");
    writes.write_as(&mut kv, Mode::Exclusive, FencingToken::MAX, [put("data", "1")]).await.unwrap();
    server.kill().await.unwrap();
    let error = failure(writes.write_as(&mut kv, Mode::Exclusive, FencingToken::MAX, []).await);
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Unavailable, Effect::Unknown), "{error}");
}

/// A transaction of the caller's own commits while its claim stands, in whichever mode, and no longer.
#[tokio::test]
async fn a_transaction_commits_only_while_the_claim_stands() {
    let server = Etcd::start().await.unwrap();
    let (client, mut kv) = (locks(&server).await, kv(&server).await);
    let writes = |guard: &lock_core::Guard, value: &str| {
        Txn::new().when([stands(guard).unwrap()]).and_then([put("data", value)])
    };
    let lock = client.mutex("account").unwrap();
    let paused = lock.acquire().await.unwrap();
    assert!(kv.txn(writes(&paused, "1")).await.unwrap().succeeded());
    client.force_release("account", None).await.unwrap();
    // Nobody has to have come after it.
    assert!(!kv.txn(writes(&paused, "2")).await.unwrap().succeeded());
    let successor = lock.acquire().await.unwrap();
    assert!(!kv.txn(writes(&paused, "2")).await.unwrap().succeeded());
    assert!(kv.txn(writes(&successor, "3")).await.unwrap().succeeded());
    let released = writes(&successor, "4");
    successor.release().await.unwrap();
    assert!(!kv.txn(released).await.unwrap().succeeded());
    assert_eq!(text(&server, "data").await.as_deref(), Some("3"));

    let shared = client.rw_lock("table").unwrap();
    let readers = [shared.read().acquire().await.unwrap(), shared.read().acquire().await.unwrap()];
    for reader in &readers {
        assert!(kv.txn(writes(reader, "r")).await.unwrap().succeeded());
    }
    client.force_release("table", Some(readers[0].token())).await.unwrap();
    assert!(!kv.txn(writes(&readers[0], "s")).await.unwrap().succeeded());
    assert!(kv.txn(writes(&readers[1], "t")).await.unwrap().succeeded());
}

#[tokio::test]
async fn a_guard_of_another_store_stands_nowhere_but_its_token_is_checked() {
    let server = Etcd::start().await.unwrap();
    let mut kv = kv(&server).await;
    let client = LockClient::builder(MemoryBackend::new()).build().unwrap();
    let guard = client.mutex("account").unwrap().acquire().await.unwrap();
    assert_eq!(*stands(&guard).unwrap_err().kind(), ErrorKind::WrongBackend);
    let writes = FencedWrites::new("fence");
    writes.write(&mut kv, &guard, [put("data", "1")]).await.unwrap();
    assert_eq!(text(&server, "fence/highest").await.unwrap(), format!("token {:016}", guard.token().get()));
}

#[tokio::test]
async fn an_account_needs_no_more_than_its_data_and_the_fence() {
    let server = EtcdSetup::new().password("of-root").start().await.unwrap();
    server.account("writer", "of-writer", "accounts/").await.unwrap();
    let options = ConnectOptions::new().with_user("writer", "of-writer");
    let mut kv = Client::connect([server.address()], Some(options)).await.unwrap().kv_client();
    for mode in [Mode::Shared, Mode::Exclusive] {
        let inside = FencedWrites::new(format!("accounts/{mode:?}"));
        inside.write_as(&mut kv, mode, token(1), [put("accounts/42", "1")]).await.unwrap();
        let outside = FencedWrites::new("fences/accounts");
        let error = failure(outside.write_as(&mut kv, mode, token(1), [put("accounts/42", "1")]).await);
        assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Denied, Effect::NotApplied), "{error}");
    }
}
