//! A proxy does to connections what it is told, at once, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod doors;
mod echo;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::proxy::{Proxy, Way};
use lock_core::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::client::{
    ask, assert_over, assert_reset, assert_reset_after, connect, now, pause, read, silence, until, within,
};
use self::echo::Echo;

#[tokio::test]
async fn what_is_sent_arrives_both_ways() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    ask(&mut client, &[7; 300_000]).await;
    assert_eq!(echo.received(), 300_003);
    assert_eq!(proxy.connections(), 1);
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.to_server, counts.to_client), (1, 300_003, 300_003));
    drop(client);
    until("the connection is closed on both sides", || proxy.connections() == 0 && echo.open() == 0).await;
    let _second = connect(&proxy).await;
    until("the second is counted", || proxy.counts().connections == 2).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_passed_on_and_the_other_way_goes_on() {
    let (_echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the reply and the end", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"last words");
}

#[tokio::test]
async fn a_delay_is_added_each_way_and_limits_no_throughput() {
    const EACH: Duration = Duration::from_millis(40);
    let (_echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"warm").await;
    proxy.delay(EACH);
    let (start, messages) = (now(), 60);
    let mut expected = Vec::new();
    for number in 0..messages {
        let message = [number; 100];
        client.write_all(&message).await.unwrap();
        expected.extend(message);
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&mut client, expected.len()).await, expected);
    let took = now().since(start);
    assert!(took >= EACH * 2, "{took:?}");
    assert!(took < EACH * 2 * u32::from(messages) / 4, "one after the other: {took:?}");

    // What is under way is not bound to the delay of its start.
    proxy.delay(Duration::from_secs(3600));
    client.write_all(b"slow").await.unwrap();
    silence(&mut client).await;
    proxy.delay(Duration::ZERO);
    assert_eq!(read(&mut client, 4).await, b"slow");
}

#[tokio::test]
async fn a_blocked_request_vanishes_and_the_connection_is_reset_when_that_heals() {
    let (echo, proxy) = scene().await;
    let (mut client, mut idle) = (connect(&proxy).await, connect(&proxy).await);
    ask(&mut client, b"one").await;
    ask(&mut idle, b"one").await;
    proxy.block(Way::ToServer);
    client.write_all(b"lost").await.unwrap();
    silence(&mut client).await;
    assert_eq!(echo.received(), 6, "it arrived");
    proxy.heal();
    assert_reset(&mut client).await;
    ask(&mut idle, b"two").await;
    assert_eq!(echo.received(), 9);
    ask(&mut connect(&proxy).await, b"three").await;
}

#[tokio::test]
async fn a_blocked_reply_vanishes_after_the_request_arrived() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    proxy.block(Way::ToClient);
    client.write_all(b"two").await.unwrap();
    until("the request has arrived", || echo.received() == 6).await;
    silence(&mut client).await;
    assert_eq!(proxy.counts().to_client, 3);
    proxy.heal();
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_partition_hides_the_death_of_either_side() {
    let (echo, proxy) = scene().await;
    let (mut client, mut other) = (connect(&proxy).await, connect(&proxy).await);
    ask(&mut client, b"one").await;
    ask(&mut other, b"one").await;
    proxy.block(Way::Both);
    drop(other);
    pause().await;
    assert_eq!(echo.open(), 2, "the server heard that a client has gone");
    echo.die().await;
    silence(&mut client).await;
    client.write_all(b"to nobody").await.unwrap();
    silence(&mut client).await;
    proxy.heal();
    assert_reset(&mut client).await;
    until("both are over", || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_hears_nothing_does_not_hear_of_a_dead_server_by_sending_to_it() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    proxy.block(Way::ToClient);
    echo.die().await;
    for _ in 0..3 {
        client.write_all(b"to nobody").await.unwrap();
        silence(&mut client).await;
    }
    proxy.heal();
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_connection_made_in_a_partition_reaches_the_server_only_if_nothing_of_it_was_lost() {
    for way in [Way::ToServer, Way::ToClient, Way::Both] {
        let (echo, proxy) = scene().await;
        proxy.block(way);
        let (mut eager, mut patient) = (connect(&proxy).await, connect(&proxy).await);
        eager.write_all(b"now").await.unwrap();
        silence(&mut eager).await;
        assert_eq!(echo.accepted(), 0);
        proxy.heal();
        assert_reset(&mut eager).await;
        ask(&mut patient, b"later").await;
        assert_eq!((echo.accepted(), echo.received()), (1, 5));
    }
}

#[tokio::test]
async fn slices_come_in_pieces_with_pauses_between() {
    const PAUSE: Duration = Duration::from_millis(10);
    let (_echo, proxy) = scene().await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = sizes.clone();
    proxy.watch(move |way, piece| {
        if way == Way::ToServer {
            seen.lock().unwrap().push(piece.len());
        }
    });
    let mut client = connect(&proxy).await;
    proxy.slices(3, PAUSE);
    let start = now();
    ask(&mut client, b"0123456789").await;
    assert!(now().since(start) >= PAUSE * 3, "{:?}", now().since(start));
    assert_eq!(*sizes.lock().unwrap(), [3, 3, 3, 1]);
    proxy.slices(0, PAUSE);
    ask(&mut client, b"0123456789").await;
    assert_eq!(*sizes.lock().unwrap(), [3, 3, 3, 1, 10]);
}

#[tokio::test]
async fn a_long_pause_ends_when_there_are_no_more_slices() {
    let (_echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    proxy.slices(1, Duration::from_secs(3600));
    client.write_all(b"slow").await.unwrap();
    assert_eq!(read(&mut client, 1).await, b"s");
    silence(&mut client).await;
    proxy.slices(0, Duration::ZERO);
    assert_eq!(read(&mut client, 3).await, b"low");
}

#[tokio::test]
async fn all_connections_are_reset_on_both_sides_and_new_ones_are_not() {
    let (echo, proxy) = scene().await;
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    ask(&mut one, b"one").await;
    ask(&mut two, b"two").await;
    proxy.reset_all();
    assert_reset(&mut one).await;
    assert_reset(&mut two).await;
    until("the server was reset twice", || echo.resets() == 2).await;
    ask(&mut connect(&proxy).await, b"three").await;
}

#[tokio::test]
async fn a_connection_that_cannot_deliver_is_reset_all_the_same() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(silent.local_addr().unwrap().to_string()).await.unwrap();
    let mut client = connect(&proxy).await;
    let (_server, _) = silent.accept().await.unwrap();
    // Until nobody takes anything more: the server, the proxy and the client's machine are full.
    let flood = async {
        loop {
            if client.write_all(&[0; 65536]).await.is_err() {
                return;
            }
        }
    };
    let counts = async {
        let mut before = 1;
        while before != proxy.counts().to_server {
            before = proxy.counts().to_server;
            SystemClock::new().sleep(Duration::from_millis(200)).await;
        }
        proxy.reset_all();
    };
    within("a reset", async { tokio::join!(flood, counts) }).await;
}

#[tokio::test]
async fn a_half_closed_client_sees_the_end_and_can_go_on_sending() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    proxy.half_close();
    let mut rest = Vec::new();
    assert_eq!(within("the end", client.read_to_end(&mut rest)).await.unwrap(), 0);
    client.write_all(b"two").await.unwrap();
    until("the request has arrived", || echo.received() == 6).await;
    client.write_all(b"three").await.unwrap();
    until("the next request has arrived", || echo.received() == 11).await;
    ask(&mut connect(&proxy).await, b"four").await;
}

#[tokio::test]
async fn a_request_is_cut_after_so_many_bytes() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    proxy.reset_after_bytes(Way::ToServer, 4);
    client.write_all(b"0123456789").await.unwrap();
    assert_reset_after(&mut client, b"0123").await;
    until("the server was reset", || echo.resets() == 1).await;
    assert_eq!(echo.received(), 7);
    ask(&mut connect(&proxy).await, b"0123456789").await;
}

#[tokio::test]
async fn a_reply_is_cut_after_so_many_bytes_even_of_several_replies() {
    let (echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    proxy.reset_after_bytes(Way::ToClient, 5);
    ask(&mut client, b"abc").await;
    client.write_all(b"0123456789").await.unwrap();
    assert_reset_after(&mut client, b"01").await;
    assert_eq!((echo.received(), proxy.counts().to_client), (13, 5));
    // Whole, and nothing after it.
    let mut client = connect(&proxy).await;
    proxy.reset_after_bytes(Way::ToClient, 3);
    client.write_all(b"abc").await.unwrap();
    assert_reset_after(&mut client, b"abc").await;
    // Not even a byte.
    let mut client = connect(&proxy).await;
    proxy.reset_after_bytes(Way::ToServer, 0);
    client.write_all(b"abc").await.unwrap();
    assert_reset(&mut client).await;
    assert_eq!(echo.received(), 16);
}

#[tokio::test]
async fn a_swallowed_reply_is_that_of_a_request_that_arrived() {
    let (echo, proxy) = scene().await;
    let (mut client, mut other) = (connect(&proxy).await, connect(&proxy).await);
    ask(&mut client, b"one").await;
    ask(&mut other, b"one").await;
    proxy.swallow_next_reply();
    client.write_all(b"two").await.unwrap();
    assert_reset(&mut client).await;
    assert_eq!((echo.received(), proxy.counts().to_client), (9, 6));
    ask(&mut other, b"three").await;
    ask(&mut connect(&proxy).await, b"four").await;
}

#[tokio::test]
async fn refused_are_only_new_connections() {
    let (echo, proxy) = scene().await;
    let mut old = connect(&proxy).await;
    ask(&mut old, b"one").await;
    proxy.refuse(true);
    // A reset that comes this early may be seen in any of the calls.
    let refused = async {
        let mut client = TcpStream::connect(proxy.address()).await?;
        client.write_all(b"two").await?;
        client.read_u8().await
    };
    let error = within("a refusal", refused).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error:?}");
    ask(&mut old, b"three").await;
    assert_eq!((echo.accepted(), proxy.counts().connections, proxy.counts().refused), (1, 1, 1));
    proxy.refuse(false);
    ask(&mut connect(&proxy).await, b"four").await;
}

#[tokio::test]
async fn a_client_of_a_server_that_is_not_there_is_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::to(nobody.to_string()).await.unwrap();
    assert_reset(&mut connect(&proxy).await).await;
    until("the connection is over", || proxy.connections() == 0).await;
}

#[tokio::test]
async fn whoever_watches_sees_what_is_forwarded_and_nothing_else() {
    let (_echo, proxy) = scene().await;
    let seen = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let log = seen.clone();
    proxy.watch(move |way, piece| {
        let mut log = log.lock().unwrap();
        if way == Way::ToServer { log.0.extend_from_slice(piece) } else { log.1.extend_from_slice(piece) }
    });
    let mut client = connect(&proxy).await;
    ask(&mut client, b"seen").await;
    proxy.block(Way::ToClient);
    client.write_all(b" too").await.unwrap();
    until("the request was seen", || seen.lock().unwrap().0 == b"seen too").await;
    proxy.block(Way::ToServer);
    client.write_all(b" lost").await.unwrap();
    silence(&mut client).await;
    assert_eq!(*seen.lock().unwrap(), (b"seen too".to_vec(), b"seen".to_vec()));
}

#[tokio::test]
async fn a_proxy_ends_with_its_last_clone_and_leaves_no_task() {
    let (echo, proxy) = scene().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    let (address, last) = (proxy.address(), proxy.clone());
    drop(proxy);
    ask(&mut client, b"two").await;
    let before = metrics.num_alive_tasks();
    drop(last);
    assert_over(&mut client).await;
    until("nobody listens", || std::net::TcpStream::connect(&address).is_err()).await;
    until("the server's side is closed", || echo.open() == 0).await;
    // The proxy's two, and the server's one.
    until("the tasks are over", || metrics.num_alive_tasks() <= before - 3).await;
}

#[tokio::test]
async fn nobody_listens_when_a_proxy_has_been_closed() {
    let (_echo, proxy) = scene().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"one").await;
    proxy.block(Way::Both);
    within("the end", proxy.close()).await;
    assert_eq!(proxy.connections(), 0);
    assert_over(&mut client).await;
    let error = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    within("the end, once more", proxy.close()).await;
}

async fn scene() -> (Echo, Proxy) {
    let echo = Echo::start().await;
    let proxy = Proxy::to(echo.address()).await.unwrap();
    (echo, proxy)
}
