//! Who is let in, and what nobody gets to see.

mod common;

use lock_conformance::servers::{Redis, RedisSetup, Reply};
use lock_core::{Connector, Effect, ErrorKind, FencingToken, Mode, Secret, SessionId, StoreUrl};
use lock_redis::{Credentials, FencedWrites, RedisConnector, RedisOptions, Refused, redis};

use crate::common::{SECOND, backend, mutex, session, session_of, text};

/// A server that does not know HELLO repeats its arguments: user and password.
#[tokio::test]
async fn a_server_without_hello_does_not_make_the_password_public() {
    let server = RedisSetup::new()
        .password("hunter2")
        .arguments(["--rename-command", "HELLO", "HELLO-IS-FORBIDDEN"])
        .start()
        .await
        .unwrap();
    let url = format!("redis://:hunter2@{}", server.address());
    let error = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap_err();
    let shown = format!("{error} | {error:?}");
    assert_eq!(*error.kind(), ErrorKind::Unsupported);
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// The callback's `None` is the default user, whatever the URL says.
#[tokio::test]
async fn credentials_without_a_user_are_those_of_the_default_one() {
    let server = RedisSetup::new().password("first").start().await.unwrap();
    let options =
        RedisOptions::new().credentials(|| async { Ok(Credentials::new(None, Secret::from("first"))) });
    let driver = redis::Client::open(format!("redis://bob:old@{}", server.address())).unwrap();
    let backend = lock_redis::backend(&driver, options).unwrap();
    let opened = session_of(&backend, SessionId::random().unwrap(), SECOND).await;
    assert!(opened.is_ok(), "{}", opened.err().unwrap());
}

#[tokio::test]
async fn user_and_password_are_decoded() {
    let server = Redis::start().await.unwrap();
    text(&server, &["ACL", "SETUSER", "a@b:c", "on", ">p/@:%é", "~*", "&*", "+@all"]).await;
    let url = format!("redis://a%40b%3Ac:p%2F%40%3A%25%C3%A9@{}", server.address());
    let backend = RedisConnector::new().connect(&mut StoreUrl::parse(&url).unwrap()).await.unwrap();
    session(&backend, SECOND).await;
}

/// Also one that is missed in the middle of a script, which may have written before.
#[tokio::test]
async fn a_right_that_a_script_lacks_is_a_refusal() {
    let server = Redis::start().await.unwrap();
    text(&server, &["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-spublish"]).await;
    let backend = backend(&format!("redis://app:secret@{}", server.address()));
    let (one, two) = (session(&backend, 60 * SECOND).await, session(&backend, 60 * SECOND).await);
    one.claim(&mutex("k", 1)).await.unwrap();
    let error = two.claim(&mutex("k", 1).waiting(true)).await.unwrap_err();
    let queue = text(&server, &["ZCARD", "fencepost:{00}:q:k"]).await;
    assert_eq!(
        (error.kind(), error.took_effect()),
        (&ErrorKind::Denied, Effect::Unknown),
        "{error}; in the queue: {queue}"
    );
}

#[tokio::test]
async fn a_fenced_write_that_cannot_move_the_fence_does_not_write() {
    let server = Redis::start().await.unwrap();
    text(&server, &["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-hset"]).await;
    let mut connection = redis::Client::open(format!("redis://app:secret@{}", server.address()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let set = redis::cmd("SET").arg("k").arg("v").take();
    let token = FencingToken::new(7).unwrap();
    let answer = FencedWrites::new("f").write_as(&mut connection, Mode::Exclusive, token, &["k"], &set).await;
    let Err(Refused::Failed(error)) = answer else { panic!("{answer:?}") };
    let written = text(&server, &["GET", "k"]).await;
    assert!(written != "v", "written, and an older token is still admitted: {error}");
}

/// Binary arguments, no keys, a fence of the wrong type, more words than a script can take.
#[tokio::test]
async fn fenced_writes_of_every_shape() {
    let server = Redis::start().await.unwrap();
    let mut connection =
        redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let token = FencingToken::new(7).unwrap();
    let writes = FencedWrites::new("f");
    let mut run = async |command: redis::Cmd| {
        writes.write_as(&mut connection, Mode::Exclusive, token, &[], &command).await
    };
    let bytes: Vec<u8> = (0..=255).collect();
    run(redis::cmd("SET").arg("bin").arg(&bytes).take()).await.unwrap();
    let back = run(redis::cmd("GET").arg("bin").take()).await.unwrap();
    assert_eq!(back, redis::Value::BulkString(bytes));
    let list = run(redis::cmd("MGET").arg("no").arg("bin").arg("no").take()).await.unwrap();
    let redis::Value::Array(list) = list else { panic!("{list:?}") };
    assert_eq!((list.len(), &list[0], &list[2]), (3, &redis::Value::Nil, &redis::Value::Nil));
    let many: Vec<u32> = (0..9000).collect();
    let pushed = run(redis::cmd("RPUSH").arg("list").arg(&many).take()).await;
    assert!(matches!(&pushed, Err(Refused::Failed(e)) if *e.kind() == ErrorKind::InvalidInput), "{pushed:?}");
    text(&server, &["SET", "wrong", "text"]).await;
    let set = redis::cmd("SET").arg("k").arg("v").take();
    let answer =
        FencedWrites::new("wrong").write_as(&mut connection, Mode::Exclusive, token, &["k"], &set).await;
    assert!(matches!(&answer, Err(Refused::Failed(e)) if *e.kind() == ErrorKind::Damaged), "{answer:?}");
    assert_eq!(text(&server, &["EXISTS", "k"]).await, "Number(0)");
}

/// The script as it is published for other languages has no `#!lua`; when memory is short it either writes and moves the fence,
/// or does neither.
#[tokio::test]
async fn the_published_script_never_writes_without_moving_the_fence() {
    let server = Redis::start().await.unwrap();
    let call = async |token: &str, words: &[&str]| {
        let mut call = vec!["EVAL", lock_redis::FENCED_WRITE, "2", "f", "k", "exclusive", token];
        call.extend(words);
        server.command(call).await.unwrap()
    };
    call("5", &["SET", "k", "of-5"]).await;
    text(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let answer = call("9", &["DEL", "k"]).await;
    let written = text(&server, &["EXISTS", "k"]).await == "Number(0)";
    text(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    let late = call("5", &["SET", "k", "of-5-again"]).await;
    assert!(
        !written || matches!(&late, Reply::List(parts) if parts[0] == Reply::Number(0)),
        "9 wrote ({answer:?}), and 5 after it: {late:?}"
    );
}
