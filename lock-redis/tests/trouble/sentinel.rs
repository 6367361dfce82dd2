//! Sentinels that hang, hang up, come back, or do not know; and old primaries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_conformance::proxy::{Proxy, Way};
use lock_conformance::servers::{Redis, RedisSentinels, RedisSentinelsSetup, RedisSetup};
use lock_core::{Clock, SystemClock};
use lock_redis::RedisOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::common::{SECOND, mutex, sleep, text};
use crate::support::{
    backend_of, backend_with, client_of, deaf, is_held_for, open, received, replica_has, sentinel_url,
};

/// The sentinels only say where the primary is; it is there, and reachable all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_the_end_of_all_sentinels() {
    let servers = RedisSentinels::start().await.unwrap();
    let client = client_of(backend_of(&sentinel_url(&servers)).await, 2 * SECOND);
    let guard = client.mutex("k").unwrap().acquire().await.unwrap();
    for sentinel in servers.sentinels() {
        sentinel.kill().await.unwrap();
    }
    is_held_for(&guard, 5 * SECOND).await;
}

/// A sentinel that says this, whoever asks: it is cut off from the others.
async fn stale_sentinel(primary: &Redis) -> (String, JoinSet<()>) {
    sentinel_that(primary, None).await
}

/// The same; or it hangs up when it is asked this.
async fn sentinel_that(primary: &Redis, hangs_up_at: Option<&'static str>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let port = primary.port().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let port = port.clone();
            connections.spawn(async move {
                let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = client.read(&mut buffer).await {
                    read.extend_from_slice(&buffer[..count]);
                    while let Some((words, length)) = command(&read) {
                        read.drain(..length);
                        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
                        let words: Vec<_> = words.iter().map(|word| word.to_uppercase()).collect();
                        let words: Vec<_> = words.iter().map(String::as_str).collect();
                        if words.first().copied() == hangs_up_at {
                            return;
                        }
                        let answer = match &words[..] {
                            ["HELLO", ..] => format!("%1\r\n{}:3\r\n", bulk("proto")),
                            ["SUBSCRIBE", channel] => {
                                format!(">3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(&channel.to_lowercase()))
                            }
                            ["SENTINEL", "MASTER", _] => {
                                format!("%1\r\n{}{}", bulk("config-epoch"), bulk("0"))
                            }
                            ["SENTINEL", ..] => format!("*2\r\n{}{}", bulk("127.0.0.1"), bulk(&port)),
                            _ => "+OK\r\n".to_owned(),
                        };
                        if client.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, tasks)
}

/// The first command in there, and how long it is.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let line = |from: usize| {
        let end = from + bytes.get(from..)?.windows(2).position(|two| two == b"\r\n")?;
        Some((str::from_utf8(&bytes[from + 1..end]).ok()?.parse::<usize>().ok()?, end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, begin) = line(at)?;
        words.push(String::from_utf8_lossy(bytes.get(begin..begin + length)?).into_owned());
        at = begin + length + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

/// Of four sentinels three say which server is the primary. They are 80 ms away; the fourth is near, and cut off together with the
/// old primary.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reaches_most_of_the_sentinels_does_not_stay_with_an_old_primary() {
    let node = RedisSetup::new().password("secret");
    let servers = RedisSentinelsSetup::new().nodes(node).start().await.unwrap();
    let (stale, _tasks) = stale_sentinel(&servers.primary().await.unwrap()).await;
    let far = Proxy::to(servers.addresses().join(",")).await.unwrap();
    far.delay(SECOND * 4 / 100);
    let url = |sentinels: &str| format!("redis+sentinel://:secret@{sentinels}/locks");
    servers.isolate_primary().await.unwrap();
    let one = client_of(backend_of(&url(&format!("{stale},{}", far.address()))).await, SECOND);
    let two = client_of(backend_of(&url(&servers.addresses().join(","))).await, SECOND);
    let first = one.mutex("k").unwrap().acquire().await.unwrap();
    assert!(two.mutex("k").unwrap().try_acquire().await.unwrap().is_err(), "two hold it");
    first.release().await.unwrap();
}

/// Two of three sentinels were being restarted when the client connected, and the third is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_come_back_are_heard() {
    let node = RedisSetup::new().password("secret");
    let servers = RedisSentinelsSetup::new().nodes(node).start().await.unwrap();
    let (stale, _tasks) = stale_sentinel(&servers.primary().await.unwrap()).await;
    let others = Proxy::to(servers.addresses().join(",")).await.unwrap();
    others.refuse(true);
    let url = |sentinels: &str| format!("redis+sentinel://:secret@{sentinels}/locks");
    let one = client_of(backend_of(&url(&format!("{stale},{}", others.address()))).await, SECOND);
    let first = one.mutex("k").unwrap().acquire().await.unwrap();
    others.refuse(false);
    servers.isolate_primary().await.unwrap();
    let two = client_of(backend_of(&url(&servers.addresses().join(","))).await, SECOND);
    let taken = two.mutex("k").unwrap().acquire().await.unwrap();
    sleep(5 * SECOND).await;
    let states = (first.state(), taken.state());
    assert!(!(states.0.is_held() && states.1.is_held()), "both for five TTLs: {states:?}");
}

/// The sentinels tell of another primary while a connection to the old one is being made.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_out_of_date_when_it_is_ready_is_not_used() {
    let node = RedisSetup::new().password("secret");
    let servers = RedisSentinelsSetup::new().nodes(node).start().await.unwrap();
    let slow = Arc::new(AtomicBool::new(false));
    let is_slow = slow.clone();
    let options = RedisOptions::new().connect_timeout(30 * SECOND).credentials(move || {
        let slow = is_slow.clone();
        async move {
            while slow.load(Ordering::SeqCst) {
                sleep(SECOND / 50).await;
            }
            Ok(lock_redis::Credentials::new(None, lock_core::Secret::from("secret")))
        }
    });
    let backend = backend_with(&sentinel_url(&servers), options).await;
    let session = open(&backend, "k", 60 * SECOND, deaf()).await;
    let old = servers.primary().await.unwrap();
    sleep(SECOND / 2).await;
    slow.store(true, Ordering::SeqCst);
    old.command(["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    sleep(SECOND / 5).await;
    let mut claiming = JoinSet::from_iter([async move { session.claim(&mutex("k", 1)).await }]);
    servers.isolate_primary().await.unwrap();
    slow.store(false, Ordering::SeqCst);
    let claimed = claiming.join_next().await.unwrap();
    let on_old = text(&old, &["GET", &beside_00("l:k")]).await;
    assert_eq!(on_old, "Nil", "{claimed:?}: granted by the old primary, of whose end the client had heard");
}

fn beside_00(name: &str) -> String {
    format!("fencepost:{{00}}:{name}")
}

/// The connections to the sentinels are dead without a word, as behind a firewall that has forgotten them. New ones work.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_sentinels_that_have_died_without_a_word_are_given_up() {
    let node = RedisSetup::new().password("secret");
    let servers = RedisSentinelsSetup::new().nodes(node).start().await.unwrap();
    let middle = Proxy::to(servers.addresses().join(",")).await.unwrap();
    let front = Proxy::to(middle.address()).await.unwrap();
    let url = |sentinels: &str| format!("redis+sentinel://:secret@{sentinels}/locks");
    let one = client_of(backend_of(&url(&front.address())).await, SECOND);
    let first = one.mutex("k").unwrap().acquire().await.unwrap();
    front.lead_to(servers.addresses().join(",")).unwrap();
    middle.block(Way::Both);
    servers.isolate_primary().await.unwrap();
    let two = client_of(backend_of(&url(&servers.addresses().join(","))).await, SECOND);
    let second = two.mutex("k").unwrap().acquire().await.unwrap();
    sleep(10 * SECOND).await;
    let states = (first.state(), second.state());
    assert!(!(states.0.is_held() && states.1.is_held()), "both for ten TTLs: {states:?}");
}

/// The sentinels are well, and say which server is the primary: it is that one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_cannot_be_reached_is_named() {
    let servers = RedisSentinels::start().await.unwrap();
    let client = client_of(backend_of(&sentinel_url(&servers)).await, 10 * SECOND);
    let primary = servers.primary().await.unwrap();
    primary.kill().await.unwrap();
    let _ = client.inspect("k").await;
    let error = client.inspect("k").await.unwrap_err();
    assert!(error.to_string().contains(&primary.port().to_string()), "{}: {error}", primary.address());
}

/// As one that is behind a proxy whose other end has gone, or that is being restarted by somebody again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_hangs_up_in_the_middle_is_no_storm() {
    let servers = RedisSentinels::start().await.unwrap();
    let primary = servers.primary().await.unwrap();
    let mut made = Vec::new();
    for at in [None, Some("SUBSCRIBE")] {
        let (rude, _tasks) = sentinel_that(&primary, at).await;
        let url = format!("redis+sentinel://{},{rude}/locks", servers.addresses().join(","));
        let holder = client_of(backend_of(&sentinel_url(&servers)).await, 30 * SECOND);
        let waiter = client_of(backend_of(&url).await, 30 * SECOND);
        let guard = holder.mutex("k").unwrap().acquire().await.unwrap();
        let lock = waiter.mutex("k").unwrap();
        let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
        while holder.inspect("k").await.unwrap().queue.is_empty() {
            sleep(SECOND / 50).await;
        }
        let before = received(&primary).await;
        sleep(3 * SECOND).await;
        made.push(received(&primary).await - before);
        guard.release().await.unwrap();
        waiting.join_next().await.unwrap().unwrap().unwrap().release().await.unwrap();
    }
    assert!(made[1] <= made[0] + 10, "connections within three seconds, of one waiter: {made:?}");
}

/// It hung when it was asked, and goes on when another has long been the primary, as the client knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_primary_answers_after_its_end_is_not_believed() {
    let servers = RedisSentinels::start().await.unwrap();
    let (one, two) = (backend_of(&sentinel_url(&servers)).await, backend_of(&sentinel_url(&servers)).await);
    let session = open(&one, "k", 60 * SECOND, deaf()).await;
    let old = servers.primary().await.unwrap();
    replica_has(&servers, "*:s:*").await;
    old.stop().unwrap();
    let claiming = session.clone();
    let mut claiming = JoinSet::from_iter([async move { claiming.claim(&mutex("k", 1)).await }]);
    while servers.primary().await.is_ok_and(|now| now.port() == old.port()) {
        sleep(SECOND / 20).await;
    }
    // The client is at the new one.
    let clock = SystemClock::new();
    let end = clock.boot() + 10 * SECOND;
    while session.renew(&[]).await.is_err() {
        assert!(clock.boot() < end);
        sleep(SECOND / 20).await;
    }
    let other = open(&two, "k", 60 * SECOND, deaf()).await;
    let second = other.claim(&mutex("k", 1)).await.unwrap();
    old.go_on().unwrap();
    let first = claiming.join_next().await.unwrap().unwrap();
    assert!(first.is_err(), "{first:?} and {second:?}");
}

/// The same as an application sees it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_primary_answers_after_its_end_makes_no_second_holder() {
    let servers = RedisSentinels::start().await.unwrap();
    let url = sentinel_url(&servers);
    let (one, two) =
        (client_of(backend_of(&url).await, 10 * SECOND), client_of(backend_of(&url).await, 10 * SECOND));
    one.mutex("l").unwrap().acquire().await.unwrap().release().await.unwrap();
    two.mutex("l").unwrap().acquire().await.unwrap().release().await.unwrap();
    let old = servers.primary().await.unwrap();
    replica_has(&servers, "*:l:l").await;
    old.stop().unwrap();
    let lock = one.mutex("k").unwrap();
    let mut acquiring = JoinSet::from_iter([async move { lock.acquire().await }]);
    while servers.primary().await.is_ok_and(|now| now.port() == old.port()) {
        sleep(SECOND / 20).await;
    }
    let second = two.mutex("k").unwrap().acquire().await.unwrap();
    old.go_on().unwrap();
    let first = tokio::select! {
        first = acquiring.join_next() => first,
        () = sleep(SECOND) => None,
    };
    let Some(Ok(Ok(first))) = first else { return };
    let states = (first.state(), second.state());
    assert!(!(states.0.is_held() && states.1.is_held()), "{} {} {states:?}", first.token(), second.token());
}
