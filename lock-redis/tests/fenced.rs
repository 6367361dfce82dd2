//! Fenced writes, on a real server: a stale token does not write, whatever it tries.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use lock_conformance::servers::{Redis, Reply};
use lock_core::{Fence, FencingToken, LockClient, Mode};
use lock_redis::redis::aio::MultiplexedConnection;
use lock_redis::{FENCED_WRITE, FencedWrites, RedisOptions, Refused, redis};

use crate::common::text;

async fn connection(server: &Redis) -> MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

#[tokio::test]
async fn a_holder_that_lost_its_lock_writes_nothing() {
    let server = Redis::start().await.unwrap();
    let driver = redis::Client::open(server.url()).unwrap();
    let client =
        LockClient::builder(lock_redis::backend(&driver, RedisOptions::new()).unwrap()).build().unwrap();
    let mut connection = connection(&server).await;
    let account = FencedWrites::new("{account}:fence");
    let lock = client.mutex("account").unwrap();

    let paused = lock.acquire().await.unwrap();
    client.force_release("account", None).await.unwrap();
    let successor = lock.acquire().await.unwrap();

    let set = |value: u32| redis::cmd("SET").arg("{account}:42").arg(value).take();
    account.write(&mut connection, &successor, &["{account}:42"], &set(2)).await.unwrap();
    let late = account.write(&mut connection, &paused, &["{account}:42"], &set(1)).await;
    assert!(
        matches!(late, Err(Refused::Stale { token, admitted })
            if token == paused.token() && admitted == successor.token().get()),
        "{late:?}"
    );
    account.write(&mut connection, &successor, &["{account}:42"], &set(3)).await.unwrap();
    assert_eq!(server.command(["GET", "{account}:42"]).await.unwrap(), Reply::Text("3".into()));
}

/// Every sequence of four writes by tokens 1 to 3, exclusive or shared, is admitted or refused as the fence in memory does.
#[tokio::test]
async fn it_admits_what_a_fence_in_memory_admits() {
    let server = Redis::start().await.unwrap();
    let mut connection = connection(&server).await;
    let grants: Vec<_> =
        (1..=3).flat_map(|number| [(Mode::Exclusive, number), (Mode::Shared, number)]).collect();
    let append = redis::cmd("APPEND").arg("log").arg("x").take();
    let rounds = grants.len().pow(4);
    for round in 0..rounds {
        let writes = FencedWrites::new(format!("fence-{round}"));
        let mut fence = Fence::new();
        for step in 0..4 {
            let (mode, number) = grants[round / grants.len().pow(step) % grants.len()];
            let here = fence.admit(mode, token(number)).map_err(|stale| stale.admitted);
            let there = match writes.write_as(&mut connection, mode, token(number), &["log"], &append).await {
                Ok(_) => Ok(()),
                Err(Refused::Stale { admitted, .. }) => Err(admitted),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(there, here, "round {round}, step {step}: {mode:?} {number}");
        }
    }
}

#[tokio::test]
async fn a_write_that_fails_leaves_the_fence_where_it_was() {
    let server = Redis::start().await.unwrap();
    let mut connection = connection(&server).await;
    let writes = FencedWrites::new("fence");
    let set = redis::cmd("SET").arg("text").arg("words").take();
    writes.write_as(&mut connection, Mode::Exclusive, token(5), &["text"], &set).await.unwrap();
    let wrong = redis::cmd("INCR").arg("text").take();
    let failed = writes.write_as(&mut connection, Mode::Exclusive, token(9), &["text"], &wrong).await;
    let Err(Refused::Failed(error)) = failed else { panic!("{failed:?}") };
    assert!(error.to_string().contains("not an integer"), "{error}");
    let marks = server.command(["HGET", "fence", "highest"]).await.unwrap();
    assert_eq!(marks, Reply::Text("5".into()));
    // A reply of nothing is a reply.
    let missing = redis::cmd("GET").arg("nowhere").take();
    let read =
        writes.write_as(&mut connection, Mode::Shared, token(9), &["nowhere"], &missing).await.unwrap();
    assert_eq!(read, redis::Value::Nil);
}

/// As a program in another language uses it, with the largest token that there is.
#[tokio::test]
async fn the_script_alone_is_enough() {
    let server = Redis::start().await.unwrap();
    let largest = FencingToken::MAX.get().to_string();
    let call = |token: String| {
        let server = &server;
        async move {
            server
                .command(["EVAL", FENCED_WRITE, "2", "f", "k", "exclusive", &token, "SET", "k", "v"])
                .await
                .unwrap()
        }
    };
    assert_eq!(call(largest.clone()).await, Reply::List(vec![Reply::Number(1), Reply::Text("OK".into())]));
    let before = (FencingToken::MAX.get() - 1).to_string();
    assert_eq!(call(before).await, Reply::List(vec![Reply::Number(0), Reply::Text(largest)]));
}

/// Whatever was marked before, and whoever fails.
#[tokio::test]
async fn marks_are_what_they_were_after_a_command_that_failed() {
    let server = Redis::start().await.unwrap();
    text(&server, &["SET", "text", "words"]).await;
    let marks: [&[&str]; 5] = [
        &[],
        &["highest", "5"],
        &["exclusive", "5"],
        &["highest", "5", "exclusive", "5"],
        &["highest", "7", "exclusive", "5", "other", "1"],
    ];
    for before in marks {
        for kind in ["exclusive", "shared"] {
            for token in ["5", "6", "7", "8", "9007199254740991"] {
                text(&server, &["DEL", "f"]).await;
                if !before.is_empty() {
                    text(&server, &[&["HSET", "f"], before].concat()).await;
                }
                let sorted = async || {
                    let mut all = text(&server, &["HGETALL", "f"])
                        .await
                        .split("Text")
                        .map(|part| part.trim_matches(['(', ')', ']', '[', ',', ' ']).to_owned())
                        .collect::<Vec<_>>();
                    all.sort();
                    all
                };
                let was = sorted().await;
                text(&server, &["EVAL", FENCED_WRITE, "2", "f", "text", kind, token, "INCR", "text"]).await;
                assert_eq!(sorted().await, was, "{before:?} {kind} {token}");
            }
        }
    }
}
